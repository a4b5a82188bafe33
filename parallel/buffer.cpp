#include "parallel/buffer.h"

#include <utility>

namespace ropewalk {

void clear_tallies(const Tallies& tallies) {
  for (const auto& tally : tallies) tally->counts.fill(0);
}

void sum_tallies(const Tallies& tallies, const Group& group, bool own_counts) {
  if (tallies.empty() || group.size() == 1) return;
  Tensors counts;
  for (const auto& tally : tallies) counts.push_back(tally->counts);
  const Tensor all = concat(counts, 0);
  if (!own_counts) all.fill(0);
  group.all_reduce_in_place(all, "tallies").wait();
  int64_t at = 0;
  for (const Tensor& part : counts) part.copy_from(all.narrow(0, std::exchange(at, at + part.numel()), part.numel()));
}

}  // namespace ropewalk
