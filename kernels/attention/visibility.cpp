#include "kernels/attention/visibility.h"

namespace ropewalk {

std::vector<QueryTile> query_tiles(const Spans& spans, int64_t size) {
  std::vector<QueryTile> tiles;
  for (const QueryRun& run : spans)
    for_each_tile(TokenRange::of(run), size, [&](const TokenRange& tokens) { tiles.push_back({&run, tokens}); });
  return tiles;
}

std::vector<KeyTile> key_tiles(const Spans& spans, const Visibility& visibility, int64_t rows, int64_t tokens, int64_t size) {
  std::vector<KeyTile> tiles;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t begin = 0; begin < tokens; begin += size) tiles.push_back({row, begin, std::min(size, tokens - begin), {}});

  const int64_t tiles_in_row = (tokens + size - 1) / size;
  for (const QueryRun& run : spans)
    for (const KeyRun& key_run : run.keys) {
      const TokenRange keys = visibility.keys_of(TokenRange::of(run), TokenRange::of(key_run));
      for (int64_t at = 0; at < keys.length;) {
        KeyTile& tile = tiles[static_cast<size_t>(keys.row * tiles_in_row + (keys.begin + at) / size)];
        const int64_t length = std::min(keys.length, tile.begin + tile.length - keys.begin) - at;
        tile.uses.push_back({&run, keys.piece(at, length)});
        at += length;
      }
    }
  return tiles;
}

}  // namespace ropewalk
