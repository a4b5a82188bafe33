// A sub-layer is a mixer or a feed-forward: mathematics between a normed input and a branch. Norm, residual, hooks and recompute belong to
// the stack; who calls it, and on how many ranks, it does not know beyond its few named moves.
#pragma once

#include <cmath>
#include <string>

#include "kernels/bias/bias.h"
#include "layers/cost.h"
#include "layers/options.h"
#include "parallel/context.h"
#include "parallel/parameter.h"

namespace ropewalk {

class SubLayer {
 public:
  virtual ~SubLayer() = default;

  virtual const char* kind() const = 0;  // in parameter names: "mamba2"
  // Names the parameters under `name`; called once for each call site.
  virtual void declare(Declarations& declarations, const std::string& name) = 0;
  // u [B, S, D] is normed; returns the branch, not the sum.
  virtual Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const = 0;
  virtual Ports ports() const { return {}; }
  // What its call sites remember in decoding: most sub-layers are one site, a parallel pair is two.
  virtual std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const = 0;
  virtual Cost cost(const TokenShape& shape) const = 0;
};

// Uniform in +-scale / sqrt(fan_in): PyTorch's default for linear layers and convolutions.
inline Init fan_in_init(int64_t fan_in, double scale = 1) {
  const double bound = scale / std::sqrt(static_cast<double>(fan_in));
  return {Init::kUniform, -bound, bound};
}

// What every sub-layer is built with.
struct BuildContext {
  int64_t input = 0;       // width of u
  int64_t output = 0;      // width of the branch: d_model
  int64_t sub_layers = 1;  // of the whole stack
  NormOptions norm{};      // the stack's
  InitOptions init{};

  // Weights of a linear layer with so many inputs; `scale` shrinks them.
  Init linear_init(int64_t fan_in, double scale = 1) const {
    return init.weights == InitOptions::kNormal ? Init{Init::kNormal, scale * init.std} : fan_in_init(fan_in, scale);
  }
  // Of one that writes into the residual stream.
  Init output_init(int64_t fan_in) const {
    return linear_init(fan_in, init.residual == InitOptions::kSqrtDepth ? 1 / std::sqrt(static_cast<double>(sub_layers)) : 1);
  }
};

// x + bias, where there is one. Behind tp_leave it is added once, by each rank to its own tokens.
inline Var with_bias(const Var& x, const Var& bias) { return bias ? add_bias(x, bias) : x; }

// A bias that starts at 0.
inline ParameterSpec bias_spec(const std::string& name, int64_t width, Kind kind, const std::optional<Split>& split,
                               bool owed_over_tensor = false) {
  return {
      .name = name, .shape = {width}, .kind = kind, .role = Role::kBias, .init = {}, .split = split, .owed_over_tensor = owed_over_tensor};
}

}  // namespace ropewalk
