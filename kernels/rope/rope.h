// Rotary position embedding (Su et al. 2021), halves paired as in GPT-NeoX: with angle a = position * theta^(-2i/P), i < P/2,
//   y_i = x_i cos a - x_{i+P/2} sin a,   y_{i+P/2} = x_{i+P/2} cos a + x_i sin a.
// x [B, S, H, P] (any view whose last dim is dense), position [B, S] int64: inside the token's document. P is even.
// Angles in double, the rotation in the wide type. Linear in x, so backward rotates by -a and keeps only the positions.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

struct RopeOptions {
  double theta = 10000;
  bool operator==(const RopeOptions&) const = default;
};

Var rope(const Var& x, const Tensor& position, const RopeOptions& options);

// Rotates by `turn` times the angle: 1 forward, -1 backward.
struct Rope {
  const Tensor& y;  // dense
  const Tensor &x, &position;
  double theta;
  int turn;
};
void launch(Cpu, const Rope& args);

}  // namespace ropewalk
