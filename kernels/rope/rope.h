// Rotary position embedding (Su et al. 2021), halves paired as in GPT-NeoX. The first R = fraction * P channels of a head are rotated, with
// angle a = position * theta^(-2i/R), i < R/2,
//   y_i = x_i cos a - x_{i+R/2} sin a,   y_{i+R/2} = x_{i+R/2} cos a + x_i sin a,
// and the others stay. x [B, S, H, P] (any view whose last dim is dense), position [B, S] int64, on any device: inside the token's document. R is even.
// Angles in double, the rotation in the wide type. Linear in x, so backward rotates by -a and keeps only the positions.
#pragma once

#include <optional>

#include "kernels/autograd/tape.h"

namespace ropewalk {

struct RopeOptions {
  double theta = 10000;
  double fraction = 1;  // of a head's channels, rotated
  bool operator==(const RopeOptions&) const = default;
};

// R, or nothing where fraction * head_dim is no even number.
std::optional<int64_t> rotated_channels(const RopeOptions& options, int64_t head_dim);

Var rope(const Var& x, const Tensor& position, const RopeOptions& options);

// Rotates by `turn` times the angle: 1 forward, -1 backward.
struct Rope {
  const Tensor &y, &x, &position;  // y as x: any view whose last dim is dense
  int64_t rotated;                 // channels, R
  double theta;
  int turn;
};
void launch(Cpu, const Rope& args);
void launch(Cuda, const Rope& args);

}  // namespace ropewalk
