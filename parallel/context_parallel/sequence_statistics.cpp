#include "parallel/context_parallel/sequence_statistics.h"

namespace ropewalk {

Tensor sum_over_sequence(const Tensor& counts, const Context& ctx) {
  const Group& group = ctx.cp.slices;
  if (group.size() == 1) return counts;
  return ctx.receive([&] { return Tensors{group.all_reduce(counts, "sum_over_sequence")}; }).front();
}

Tensor gather_sequence(const Tensor& x_BSC, const Context& ctx) {
  constexpr int kSequence = 1;
  const Group& group = ctx.cp.slices;
  return group.size() == 1 ? x_BSC : group.all_gather(x_BSC, kSequence, "gather_sequence");
}

int64_t sequence_length(const Context& ctx) { return ctx.layout().length * ctx.cp.group.size(); }

}  // namespace ropewalk
