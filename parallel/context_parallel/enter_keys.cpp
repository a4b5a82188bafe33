#include <algorithm>
#include <map>

#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/deal.h"

namespace ropewalk {
namespace {

using Document = std::pair<int64_t, int64_t>;  // row, index in the row

// Where the key tensor holds each document: rank r's tokens of a row stand at [r * length, (r + 1) * length). In order of position.
std::map<Document, std::vector<KeyRun>> keys_by_document(const std::vector<Runs>& runs_of, int64_t length) {
  std::map<Document, std::vector<KeyRun>> keys;
  for (size_t rank = 0; rank < runs_of.size(); ++rank)
    for (const Run& run : runs_of[rank])
      keys[{run.row, run.document}].push_back(
          {.row = run.row, .begin = static_cast<int64_t>(rank) * length + run.begin, .length = run.length, .position = run.position});
  for (auto& [document, runs] : keys)
    std::sort(runs.begin(), runs.end(), [](const KeyRun& a, const KeyRun& b) { return a.position < b.position; });
  return keys;
}

bool sees(const QueryRun& queries, const KeyRun& keys, const std::optional<int64_t>& window) {
  return keys.position <= queries.position && (!window || keys.position + keys.length > queries.position - *window + 1);
}

Spans spans_of(const Runs& runs, const std::vector<Runs>& key_runs_of, int64_t length, const std::optional<int64_t>& window) {
  const auto keys = keys_by_document(key_runs_of, length);
  Spans spans;
  for (const Run& run : runs) {
    QueryRun& queries =
        spans.emplace_back(QueryRun{.row = run.row, .begin = run.begin, .length = run.length, .position = run.position, .keys = {}});
    for (const KeyRun& key_run : keys.at({run.row, run.document}))
      if (sees(queries, key_run, window)) queries.keys.push_back(key_run);
  }
  return spans;
}

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

KeyValues cached_keys(const Tensor& k, const Tensor& v, const std::optional<int64_t>& window, const Context& ctx, int slot) {
  const int64_t before = seen_before(ctx.layout()), length = ctx.layout().length;
  const int64_t first = window ? std::max<int64_t>(0, before - *window + 1) : 0;
  const Tensors& caches = advanced_state(ctx).tensors;
  const int64_t capacity = caches[slot].dim(kSequence);
  expect(capacity > 0 && before - first <= capacity && (window || before + length <= capacity),
         "enter_keys: a cache of {} tokens, given {} behind {}", capacity, length, before);
  Spans spans;
  for (const Run& run : ctx.layout().runs)
    spans.push_back({.row = run.row,
                     .begin = run.begin,
                     .length = run.length,
                     .position = run.position,
                     .keys = {{.row = run.row, .begin = 0, .length = before - first + length, .position = first}}});
  return {behind_cached(caches[slot], k, first, before), behind_cached(caches[slot + 1], v, first, before), spans};
}

}  // namespace

KeyValues enter_keys(const Var& k_BSKP, const Var& v_BSKP, const std::optional<int64_t>& window, const Context& ctx, int slot) {
  if (ctx.decoding()) return cached_keys(k_BSKP.data(), v_BSKP.data(), window, ctx, slot);
  const Layout& layout = ctx.layout();
  const Group group = ctx.cp.group;
  if (group.size() == 1 || !something_enters(layout)) return {k_BSKP, v_BSKP, spans_of(layout.runs, {layout.runs}, layout.length, window)};
  const Tensors gathered = ctx.receive([&] {
    return Tensors{group.all_gather(k_BSKP.data(), kSequence, "enter_keys"), group.all_gather(v_BSKP.data(), kSequence, "enter_keys")};
  });
  const Vars kv = record("enter_keys", {k_BSKP, v_BSKP}, gathered, [group](Backprop& b) {
    for (int i = 0; i < 2; ++i)
      if (b.dy(i)) b.give(i, group.reduce_scatter(b.dy(i), kSequence, "enter_keys.backward"));
  });
  return {kv[0], kv[1], spans_of(layout.runs, layout.runs_of, layout.length, window)};
}

}  // namespace ropewalk
