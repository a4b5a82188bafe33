// Ops that only look at a tensor differently. Forward costs nothing; split_last's backward writes one dense gradient.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

// [.., sum(widths)] -> one view [.., w] for each width.
Vars split_last(const Var& x, const std::vector<int64_t>& widths);
// The parts side by side along the last dim; all [.., w_i] of one dtype. Copies.
Var concat_last(const Vars& parts);
// [.., H * width] -> [.., H, width] and back. split_heads keeps the view; merge_heads copies where no view exists.
Var split_heads(const Var& x, int64_t width);
Var merge_heads(const Var& x);

}  // namespace ropewalk
