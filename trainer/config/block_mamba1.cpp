// A block `mixer: mamba1`.
#include "trainer/config/sections.h"

namespace ropewalk {

Mamba1Options read_mamba1(const Node& block, int64_t d_model) {
  Mamba1Options mamba;
  mamba.state = block["state"].about("State of a channel (N).").size(mamba.state);
  mamba.expand = block["expand"].about("The inner width is `expand` x `d_model`.").size(mamba.expand);
  mamba.conv = block["conv"].about("Width of the causal convolution.").size(mamba.conv);
  const Node rank = block["dt_rank"].about("Rank of the projection to the time steps; null: ceil(`d_model` / 16).");
  const Node heads = block["heads"].about("Heads with an x_proj and a dt_proj of their own (Zamba).");
  mamba.dt_rank = rank.is_null(true) ? (d_model + 15) / 16 : rank.size();
  mamba.heads = heads.size(mamba.heads);
  mamba.dtbc_norm = block["dtbc_norm"].about("Whether dt, B and C pass an RMS norm each (Jamba).").flag(mamba.dtbc_norm);
  const int64_t inner = mamba.expand * d_model;
  if (inner % mamba.heads != 0) throw heads.error(fmt::format("expected a divisor of expand x d_model ({}), given {}", inner, mamba.heads));
  return mamba;
}

}  // namespace ropewalk
