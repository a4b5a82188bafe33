// Which tokens of queries and keys meet: the visible part of each run, cut into tiles.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/tensor/runs.h"

namespace ropewalk {

// Neighbouring tokens of one document: a run, the visible part of one, or a tile of that.
struct TokenRange {
  int64_t row, begin, length, position;

  template <class AnyRun>
  static TokenRange of(const AnyRun& run) {
    return {run.row, run.begin, run.length, run.position};
  }
  int64_t end_position() const { return position + length; }
  TokenRange piece(int64_t offset, int64_t size) const { return {row, begin + offset, size, position + offset}; }
  // The tokens with positions in [low, high).
  TokenRange between(int64_t low, int64_t high) const {
    const int64_t first = std::max(position, low), end = std::min(end_position(), high);
    return piece(first - position, std::max<int64_t>(0, end - first));
  }
};

// Calls body for consecutive pieces of at most `size` tokens.
template <class Body>
void for_each_tile(const TokenRange& tokens, int64_t size, const Body& body) {
  for (int64_t at = 0; at < tokens.length; at += size) body(tokens.piece(at, std::min(size, tokens.length - at)));
}

// A query at position p sees the keys at positions (p - window, p].
struct Visibility {
  static constexpr int64_t kUnlimited = int64_t{1} << 60;  // leaves room to add positions
  int64_t window = kUnlimited;

  TokenRange keys_of(const TokenRange& queries, const TokenRange& keys) const {
    return keys.between(queries.position - window + 1, queries.end_position());
  }
  TokenRange queries_of(const TokenRange& keys, const TokenRange& queries) const {
    return queries.between(keys.position, keys.end_position() - 1 + window);
  }
  bool all_meet(const TokenRange& queries, const TokenRange& keys) const {
    return keys.end_position() - 1 <= queries.position && queries.end_position() - 1 - keys.position < window;
  }
};

// A tile of one run of queries.
struct QueryTile {
  const QueryRun* run;
  TokenRange tokens;
};
std::vector<QueryTile> query_tiles(const Spans& spans, int64_t size);

// What one run of queries reads from a tile of keys; that run may read several pieces of it.
struct KeyUse {
  const QueryRun* run;
  TokenRange keys;
};
// A fixed tile of the key tensor with everyone who reads it, in the order of the spans. All tiles of the tensor are listed, used or not:
// who owns a tile writes its gradient.
struct KeyTile {
  int64_t row, begin, length;
  std::vector<KeyUse> uses;
};
std::vector<KeyTile> key_tiles(const Spans& spans, const Visibility& visibility, int64_t rows, int64_t tokens, int64_t size);

}  // namespace ropewalk
