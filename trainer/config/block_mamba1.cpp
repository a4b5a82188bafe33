// A block `mixer: mamba1`.
#include "trainer/config/sections.h"

namespace ropewalk {

Mamba1Options read_mamba1(const Node& block, int64_t d_model) {
  Mamba1Options mamba;
  mamba.state = block["state"].size(mamba.state);
  mamba.expand = block["expand"].size(mamba.expand);
  mamba.conv = block["conv"].size(mamba.conv);
  const Node rank = block["dt_rank"], heads = block["heads"];
  mamba.dt_rank = rank.is_null(true) ? (d_model + 15) / 16 : rank.size();
  mamba.heads = heads.size(mamba.heads);
  mamba.dtbc_norm = block["dtbc_norm"].flag(mamba.dtbc_norm);
  const int64_t inner = mamba.expand * d_model;
  if (inner % mamba.heads != 0) throw heads.error(fmt::format("expected a divisor of expand x d_model ({}), given {}", inner, mamba.heads));
  return mamba;
}

}  // namespace ropewalk
