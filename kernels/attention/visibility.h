// Which tokens of queries and keys meet: the visible part of each run, cut into tiles.
#pragma once

#include <algorithm>
#include <bitset>
#include <optional>
#include <vector>

#include "kernels/tensor/runs.h"
#include "kernels/tensor/shape.h"

namespace ropewalk {

constexpr int64_t kTile = 64;  // tokens: a tile of scores is 16 KiB in fp32

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

// What the rows of a tile of scores see of its columns: row i those of [first(i), last(i)).
struct Band {
  int64_t begin, end;  // of the columns that may be seen at all
  int64_t low, high;   // of the columns that row 0 sees; each row sees one further on

  int64_t first(int64_t i) const { return std::max(begin, low + i); }
  int64_t last(int64_t i) const { return std::max(first(i), std::min(end, high + i)); }
  bool hides_any(int64_t rows, int64_t columns) const { return first(rows - 1) > 0 || last(0) < columns; }
};

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
  // Rows are queries; the keys stand in columns [column, column + keys.length).
  Band band_of_queries(const TokenRange& queries, const TokenRange& keys, int64_t column) const {
    const int64_t own = queries.position - keys.position + column;  // the column of row 0's own position
    return {column, column + keys.length, own - window + 1, own + 1};
  }
  // Rows are keys; the queries stand in columns [column, column + queries.length).
  Band band_of_keys(const TokenRange& keys, const TokenRange& queries, int64_t column) const {
    const int64_t own = keys.position - queries.position + column;
    return {column, column + queries.length, own, own + window};
  }
};

// The tokens of a [rows, tokens, ..] tensor in tiles of kTile from the beginning of each row, and which of them anybody reads.
class TokenTiles {
 public:
  TokenTiles(int64_t rows, int64_t tokens);

  void mark_read(const TokenRange& tokens);

  int64_t count() const { return static_cast<int64_t>(read_.size()); }
  TokenRange tokens_of(int64_t tile) const;
  bool reads_any(int64_t tile) const { return read_[static_cast<size_t>(tile)].any(); }
  bool reads_all(int64_t tile) const;
  bool reads(int64_t tile, int64_t token) const { return read_[static_cast<size_t>(tile)][static_cast<size_t>(token)]; }

  // Calls body(tile, piece, column) for the pieces of `tokens` by tile; a piece begins at that column of its tile.
  template <class Body>
  void for_each(const TokenRange& tokens, const Body& body) const {
    for (int64_t at = 0; at < tokens.length;) {
      const int64_t column = (tokens.begin + at) % kTile, length = std::min(kTile - column, tokens.length - at);
      body(tokens.row * tiles_in_row_ + (tokens.begin + at) / kTile, tokens.piece(at, length), column);
      at += length;
    }
  }

 private:
  int64_t tokens_, tiles_in_row_;
  std::vector<std::bitset<kTile>> read_;
};

// At most kTile queries of one run.
struct QueryTile {
  const QueryRun* run;
  TokenRange tokens;
};

// What one run of queries reads from a tile of keys; that run may read several pieces of it.
struct KeyUse {
  const QueryRun* run;
  TokenRange keys;
};
// A tile of the key tensor with everyone who reads it, in the order of the spans. Who owns a tile writes its gradient, used or not.
struct KeyTile {
  int64_t row, begin, length;
  std::vector<KeyUse> uses;
};

// Rows of queries and keys of which no query reads a key of another group: most often one row of each.
struct Group {
  std::vector<QueryTile> queries;
  std::vector<KeyTile> keys;
  std::vector<int64_t> queries_read, keys_read;  // tiles of TokenTiles of which any token is read
};

// Who meets whom in a launch.
class Plan {
 public:
  Plan(const Spans& spans, const std::optional<int64_t>& window, const Shape& q, const Shape& k);

  const Visibility visibility;
  TokenTiles queries, keys;  // of queries all that stand in a run are read, of keys all that one of them sees
  std::vector<Group> groups;

  // Of a tile in its group's queries_read or keys_read.
  int64_t place_of_queries(int64_t tile) const { return query_places_[static_cast<size_t>(tile)]; }
  int64_t place_of_keys(int64_t tile) const { return key_places_[static_cast<size_t>(tile)]; }
  int64_t most_queries_read() const;
  int64_t most_keys_read() const;

 private:
  void cut_queries(const Spans& spans, const std::vector<int64_t>& group_of_row);
  void cut_keys(const Spans& spans, const std::vector<int64_t>& group_of_row);

  std::vector<int64_t> query_places_, key_places_;
};

}  // namespace ropewalk
