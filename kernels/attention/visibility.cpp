#include "kernels/attention/visibility.h"

#include <map>
#include <numeric>

namespace ropewalk {
namespace {

// Calls body(run, keys) for what each run of queries sees of each of its runs of keys.
template <class Body>
void for_each_visible_run(const Spans& spans, const Visibility& visibility, const Body& body) {
  for (const QueryRun& run : spans)
    for (const KeyRun& keys : run.keys) body(run, visibility.keys_of(TokenRange::of(run), TokenRange::of(keys)));
}

std::vector<KeyTile> key_tiles(const Spans& spans, const Visibility& visibility, int64_t rows, int64_t tokens) {
  const TokenTiles cut(rows, tokens);
  std::vector<KeyTile> tiles;
  for (int64_t tile = 0; tile < cut.count(); ++tile) {
    const TokenRange all = cut.tokens_of(tile);
    tiles.push_back({all.row, all.begin, all.length, {}});
  }
  for_each_visible_run(spans, visibility, [&](const QueryRun& run, const TokenRange& keys) {
    cut.for_each(keys, [&](int64_t tile, const TokenRange& piece, int64_t) {
      tiles[static_cast<size_t>(tile)].uses.push_back({&run, piece});
    });
  });
  return tiles;
}

// Of each row of keys the first row that it shares a row of queries with, directly or through others.
std::vector<int64_t> first_of_group(const Spans& spans, int64_t rows) {
  std::vector<int64_t> first(static_cast<size_t>(rows));
  std::iota(first.begin(), first.end(), int64_t{0});
  std::map<int64_t, int64_t> read_by;  // a row of keys for each row of queries
  for (const QueryRun& run : spans)
    for (const KeyRun& keys : run.keys) {
      const int64_t mine = first[static_cast<size_t>(keys.row)];
      const int64_t other = first[static_cast<size_t>(read_by.try_emplace(run.row, keys.row).first->second)];
      if (mine != other) std::ranges::replace(first, std::max(mine, other), std::min(mine, other));
    }
  return first;
}

}  // namespace

TokenTiles::TokenTiles(int64_t rows, int64_t tokens)
    : tokens_(tokens), tiles_in_row_((tokens + kTile - 1) / kTile), read_(static_cast<size_t>(rows * tiles_in_row_)) {}

void TokenTiles::mark_read(const TokenRange& tokens) {
  for_each(tokens, [&](int64_t tile, const TokenRange& piece, int64_t column) {
    for (int64_t i = 0; i < piece.length; ++i) read_[static_cast<size_t>(tile)].set(static_cast<size_t>(column + i));
  });
}

std::vector<int64_t> TokenTiles::tiles_read() const {
  std::vector<int64_t> tiles;
  for (int64_t tile = 0; tile < count(); ++tile)
    if (read_[static_cast<size_t>(tile)].any()) tiles.push_back(tile);
  return tiles;
}

TokenRange TokenTiles::tokens_of(int64_t tile) const {
  const int64_t begin = tile % tiles_in_row_ * kTile;
  return {tile / tiles_in_row_, begin, std::min(kTile, tokens_ - begin), 0};
}

bool TokenTiles::reads_all(int64_t tile) const {
  return static_cast<int64_t>(read_[static_cast<size_t>(tile)].count()) == tokens_of(tile).length;
}

TokenTiles tiles_of_keys(const Spans& spans, const Visibility& visibility, int64_t rows, int64_t tokens) {
  TokenTiles tiles(rows, tokens);
  for_each_visible_run(spans, visibility, [&](const QueryRun&, const TokenRange& keys) { tiles.mark_read(keys); });
  return tiles;
}

TokenTiles tiles_of_queries(const Spans& spans, int64_t rows, int64_t tokens) {
  TokenTiles tiles(rows, tokens);
  for (const QueryRun& run : spans) tiles.mark_read(TokenRange::of(run));
  return tiles;
}

std::vector<QueryTile> query_tiles(const Spans& spans) {
  std::vector<QueryTile> tiles;
  for (const QueryRun& run : spans) {
    const TokenRange tokens = TokenRange::of(run);
    for (int64_t at = 0; at < run.length; at += kTile) tiles.push_back({&run, tokens.piece(at, std::min(kTile, run.length - at))});
  }
  return tiles;
}

std::vector<std::vector<KeyTile>> key_groups(const Spans& spans, const Visibility& visibility, int64_t rows, int64_t tokens) {
  const std::vector<int64_t> first = first_of_group(spans, rows);
  std::vector<std::vector<KeyTile>> groups(static_cast<size_t>(rows));
  for (KeyTile& tile : key_tiles(spans, visibility, rows, tokens))
    groups[static_cast<size_t>(first[static_cast<size_t>(tile.row)])].push_back(std::move(tile));
  std::erase_if(groups, [](const std::vector<KeyTile>& group) { return group.empty(); });
  return groups;
}

}  // namespace ropewalk
