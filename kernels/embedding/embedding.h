// y[.., :] = weight[id - first_row, :]; a zero row for an id outside [first_row, first_row + rows of weight), which another rank holds.
// ids [..] int64 (on the tape as a constant), weight [V_local, D], y [.., D] in dtype `out`.
// Backward adds the rows of dy into dweight, in a fixed order.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var embedding(const Var& ids, const Var& weight, int64_t first_row, DType out);

struct EmbeddingForward {
  const Tensor& y;
  const Tensor& ids;  // dense
  const Tensor& weight;
  int64_t first_row;
};
struct EmbeddingBackward {
  const Tensor& dweight;
  const Tensor& dy;
  const Tensor& ids;  // dense
  int64_t first_row;
};
void launch(Cpu, const EmbeddingForward& args);
void launch(Cpu, const EmbeddingBackward& args);
void launch(Cuda, const EmbeddingForward& args);
void launch(Cuda, const EmbeddingBackward& args);

}  // namespace ropewalk
