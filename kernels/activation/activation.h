// Activation functions, alone and in gated linear units.
//
//   activation(x, f)                      y = f(x)
//   gated_activation(gate, up, f, scale)  y = f(scale * gate) * up      GLU (f sigmoid, Dauphin 2017), SwiGLU, GEGLU (Shazeer 2020)
// with f one of
//   sigmoid    1 / (1 + e^-x)
//   silu       x sigmoid(x)                                  (Hendrycks & Gimpel 2016)
//   gelu       x Phi(x), Phi the normal distribution function by erf        (ibid.)
//   gelu_tanh  x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2              (ibid.)
//   relu2      max(x, 0)^2                                   (So et al. 2021)
// Operands [.., F] rows of dtype T (slices of one projection are fine); y dense; arithmetic in the wide type. Keeps its operands.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

enum class Activation { kSigmoid, kSilu, kGelu, kGeluTanh, kRelu2 };

Var activation(const Var& x, Activation f);
Var gated_activation(const Var& gate, const Var& up, Activation f, double scale = 1);

struct ActivationForward {
  const Tensor &y, &x;
  Activation f;
};
struct ActivationBackward {
  const Tensor &dx, &dy, &x;
  Activation f;
};
struct GatedActivationForward {
  const Tensor &y, &gate, &up;
  Activation f;
  double scale;
};
// dup = dy f(scale gate), dgate = dy up scale f'(scale gate).
struct GatedActivationBackward {
  const Tensor &dgate, &dup, &dy, &gate, &up;
  Activation f;
  double scale;
};
void launch(Cpu, const ActivationForward& args);
void launch(Cpu, const ActivationBackward& args);
void launch(Cpu, const GatedActivationForward& args);
void launch(Cpu, const GatedActivationBackward& args);
void launch(Cuda, const ActivationForward& args);
void launch(Cuda, const ActivationBackward& args);
void launch(Cuda, const GatedActivationForward& args);
void launch(Cuda, const GatedActivationBackward& args);

}  // namespace ropewalk
