#include "parallel/context_parallel/spans.h"

#include <utility>

namespace ropewalk {
namespace {

std::pair<int64_t, int64_t> document_of(const Run& run) { return {run.row, run.document}; }

// Runs are the same or have no token in common.
bool sees(const Run& queries, const Run& keys, const std::optional<int64_t>& window) {
  return keys.position <= queries.position && (!window || keys.position + keys.length > queries.position - *window + 1);
}

}  // namespace

Spans spans_of(const Runs& queries, const Runs& keys, const std::optional<int64_t>& window) {
  Spans spans;
  auto first = keys.begin();  // of the document at hand: a rank holds rows, documents and their tokens in ascending order
  for (const Run& run : queries) {
    QueryRun seeing{.row = run.row, .begin = run.begin, .length = run.length, .position = run.position, .keys = {}};
    while (first != keys.end() && document_of(*first) < document_of(run)) ++first;
    for (auto key = first; key != keys.end() && document_of(*key) == document_of(run); ++key)
      if (sees(run, *key, window))
        seeing.keys.push_back({.row = key->row, .begin = key->begin, .length = key->length, .position = key->position});
    if (!seeing.keys.empty()) spans.push_back(std::move(seeing));
  }
  return spans;
}

}  // namespace ropewalk
