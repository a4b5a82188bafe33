#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/deal.h"

namespace ropewalk {

Var take_state(const Context& ctx, int slot) {
  if (ctx.decoding()) return ctx.state().tensors[slot];
  expect(!something_enters(ctx.layout()), "take_state: expected rows that are whole on one rank, given pieces that continue others");
  return {};
}

void keep_state(const Tensor& leaving, const Context& ctx, int slot) {
  if (ctx.decoding()) advanced_state(ctx).tensors[slot] = leaving;
}

}  // namespace ropewalk
