#include "parallel/context_parallel/cached_keys.h"

#include <algorithm>

#include "parallel/context_parallel/deal.h"

namespace ropewalk {
namespace {

// A cache holds the key of position p at p % capacity. [begin, begin + count) of positions, which may pass the end once.
Tensor read_ring(const Tensor& cache, int64_t begin, int64_t count) {
  const int64_t capacity = cache.dim(kSequence), at = begin % capacity, before_end = std::min(count, capacity - at);
  const Tensor front = cache.narrow(kSequence, at, before_end);
  return before_end == count ? front : concat({front, cache.narrow(kSequence, 0, count - before_end)}, kSequence);
}

void write_ring(const Tensor& cache, int64_t begin, const Tensor& x) {
  const int64_t capacity = cache.dim(kSequence), count = std::min(x.dim(kSequence), capacity), skipped = x.dim(kSequence) - count;
  const int64_t at = (begin + skipped) % capacity, before_end = std::min(count, capacity - at);
  cache.narrow(kSequence, at, before_end).copy_from(x.narrow(kSequence, skipped, before_end));
  cache.narrow(kSequence, 0, count - before_end).copy_from(x.narrow(kSequence, skipped + before_end, count - before_end));
}

// The keys from position `first` on: cached ones, then x. A view of the cache as long as it holds them all.
Tensor behind_cached(const Tensor& cache, const Tensor& x_BSKP, int64_t first, int64_t before) {
  if (before + x_BSKP.dim(kSequence) <= cache.dim(kSequence)) {
    write_ring(cache, before, x_BSKP);
    return cache.narrow(kSequence, first, before + x_BSKP.dim(kSequence) - first);
  }
  const Tensor keys = concat({read_ring(cache, first, before - first), x_BSKP}, kSequence);
  write_ring(cache, before, x_BSKP);
  return keys;
}

}  // namespace

KeyValues cached_keys(const Tensor& k, const Tensor& v, const std::optional<int64_t>& window, const Context& ctx, int slot) {
  const int64_t before = seen_before(ctx.layout()), length = ctx.layout().length;
  const int64_t first = window ? std::max<int64_t>(0, before - *window + 1) : 0;
  const Tensors& caches = advanced_state(ctx).tensors;
  const int64_t capacity = caches[slot].dim(kSequence);
  expect(capacity > 0 && before - first <= capacity && (window || before + length <= capacity),
         "cached_keys: a cache of {} tokens, given {} behind {}", capacity, length, before);
  Spans spans;
  for (const Run& run : ctx.layout().runs)
    spans.push_back({.row = run.row,
                     .begin = run.begin,
                     .length = run.length,
                     .position = run.position,
                     .keys = {{.row = run.row, .begin = 0, .length = before - first + length, .position = first}}});
  return {behind_cached(caches[slot], k, first, before), behind_cached(caches[slot + 1], v, first, before), spans};
}

}  // namespace ropewalk
