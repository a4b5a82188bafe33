// y = x, whose last dim is cut into segments that each have a constant factor (the muP multipliers of Falcon-H1's in_proj).
// x [.., sum(widths)] rows of dtype T; y dense, of dtype T. Linear in x, so backward does the same to dy and keeps nothing.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

struct Segment {
  int64_t width;
  double factor;
};

Var scale_segments(const Var& x, const std::vector<Segment>& segments);

struct ScaleSegments {
  const Tensor &y, &x;
  const std::vector<Segment>& segments;
};
void launch(Cpu, const ScaleSegments& args);
void launch(Cuda, const ScaleSegments& args);

}  // namespace ropewalk
