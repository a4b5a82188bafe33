#include "kernels/attention/visibility.h"

#include <numeric>

namespace ropewalk {
namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

// Calls body(run, keys) for what each run of queries sees of each of its runs of keys.
template <class Body>
void for_each_visible_run(const Spans& spans, const Visibility& visibility, const Body& body) {
  for (const QueryRun& run : spans)
    for (const KeyRun& keys : run.keys) body(run, visibility.keys_of(TokenRange::of(run), TokenRange::of(keys)));
}

// The group of each row of queries, then of each row of keys; numbered from 0.
std::vector<int64_t> groups_of_rows(const Spans& spans, int64_t query_rows, int64_t key_rows) {
  std::vector<int64_t> group(at(query_rows + key_rows));
  std::iota(group.begin(), group.end(), int64_t{0});
  for (const QueryRun& run : spans)
    for (const KeyRun& keys : run.keys) {
      const int64_t one = group[at(run.row)], other = group[at(query_rows + keys.row)];
      if (one != other) std::ranges::replace(group, std::max(one, other), std::min(one, other));
    }
  std::vector<int64_t> numbers = group;
  std::ranges::sort(numbers);
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  for (int64_t& g : group) g = std::ranges::lower_bound(numbers, g) - numbers.begin();
  return group;
}

// The tiles that are read, each to its row's group; returns their places there.
template <class ListOfRow>
std::vector<int64_t> places_of(const TokenTiles& tiles, const ListOfRow& list_of_row) {
  std::vector<int64_t> places(at(tiles.count()), -1);
  for (int64_t tile = 0; tile < tiles.count(); ++tile) {
    if (!tiles.reads_any(tile)) continue;
    std::vector<int64_t>& list = list_of_row(tiles.tokens_of(tile).row);
    places[at(tile)] = static_cast<int64_t>(list.size());
    list.push_back(tile);
  }
  return places;
}

}  // namespace

TokenTiles::TokenTiles(int64_t rows, int64_t tokens)
    : tokens_(tokens), tiles_in_row_((tokens + kTile - 1) / kTile), read_(at(rows * tiles_in_row_)) {}

void TokenTiles::mark_read(const TokenRange& tokens) {
  for_each(tokens, [&](int64_t tile, const TokenRange& piece, int64_t column) {
    for (int64_t i = 0; i < piece.length; ++i) read_[at(tile)].set(at(column + i));
  });
}

TokenRange TokenTiles::tokens_of(int64_t tile) const {
  const int64_t begin = tile % tiles_in_row_ * kTile;
  return {tile / tiles_in_row_, begin, std::min(kTile, tokens_ - begin), 0};
}

bool TokenTiles::reads_all(int64_t tile) const { return static_cast<int64_t>(read_[at(tile)].count()) == tokens_of(tile).length; }

Plan::Plan(const Spans& spans, const std::optional<int64_t>& window, const Shape& q, const Shape& k)
    : visibility{std::min(window.value_or(Visibility::kUnlimited), Visibility::kUnlimited)}, queries(q[0], q[1]), keys(k[0], k[1]) {
  std::vector<int64_t> group_of_row = groups_of_rows(spans, q[0], k[0]);
  groups.resize(group_of_row.empty() ? 0 : at(std::ranges::max(group_of_row) + 1));
  cut_queries(spans, group_of_row);
  group_of_row.erase(group_of_row.begin(), group_of_row.begin() + q[0]);
  cut_keys(spans, group_of_row);
}

// The last tiles of a run, which see most keys, come first: a long task at the end would leave threads idle.
void Plan::cut_queries(const Spans& spans, const std::vector<int64_t>& group_of_row) {
  for (const QueryRun& run : spans) {
    const TokenRange tokens = TokenRange::of(run);
    queries.mark_read(tokens);
    for (int64_t begin = (run.length - 1) / kTile * kTile; begin >= 0 && run.length > 0; begin -= kTile)
      groups[at(group_of_row[at(run.row)])].queries.push_back({&run, tokens.piece(begin, std::min(kTile, run.length - begin))});
  }
  query_places_ = places_of(
      queries, [&](int64_t row) -> auto& { return groups[at(group_of_row[at(row)])].queries_read; });
}

void Plan::cut_keys(const Spans& spans, const std::vector<int64_t>& group_of_row) {
  std::vector<KeyTile> all;
  for (int64_t tile = 0; tile < keys.count(); ++tile) {
    const TokenRange tokens = keys.tokens_of(tile);
    all.push_back({tokens.row, tokens.begin, tokens.length, {}});
  }
  for_each_visible_run(spans, visibility, [&](const QueryRun& run, const TokenRange& seen) {
    keys.mark_read(seen);
    keys.for_each(seen, [&](int64_t tile, const TokenRange& piece, int64_t) { all[at(tile)].uses.push_back({&run, piece}); });
  });
  for (KeyTile& tile : all) groups[at(group_of_row[at(tile.row)])].keys.push_back(std::move(tile));
  key_places_ = places_of(
      keys, [&](int64_t row) -> auto& { return groups[at(group_of_row[at(row)])].keys_read; });
}

int64_t Plan::most_queries_read() const {
  size_t most = 0;
  for (const Group& group : groups) most = std::max(most, group.queries_read.size());
  return static_cast<int64_t>(most);
}

int64_t Plan::most_keys_read() const {
  size_t most = 0;
  for (const Group& group : groups) most = std::max(most, group.keys_read.size());
  return static_cast<int64_t>(most);
}

}  // namespace ropewalk
