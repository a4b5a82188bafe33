// Fetching what a later piece of work will read or write while this one computes, a little at a time: all at once the few lines that a core
// can wait for at a time would hold up everything else, and the hardware sees no pattern in short rows far apart, nor across pages.
#pragma once

#include <array>
#include <cstdint>

namespace ropewalk {

class FetchAhead {
 public:
  // Forgets what was planned.
  void clear() { planned_ = next_ = lines_ = 0; }

  // Rows of `width` elements, `stride` elements apart. They need not exist.
  template <class T>
  void plan(int64_t rows, int64_t width, const T* x, int64_t stride) {
    const auto bytes = width * static_cast<int64_t>(sizeof(T));
    ranges_[planned_++] = {reinterpret_cast<const char*>(x), rows, (bytes + kLine - 1) / kLine, stride * static_cast<int64_t>(sizeof(T))};
    lines_ += ranges_[planned_ - 1].rows * ranges_[planned_ - 1].lines;
  }
  // How many calls of fetch() will follow.
  void deal(int64_t calls) { quota_ = lines_ / calls + 1; }

  // Asks for the next lines to be in the second cache soon.
  void fetch() {
    for (int64_t lines = quota_; lines > 0 && next_ < planned_;) {
      Range& range = ranges_[next_];
      for (int64_t i = 0; i < range.lines; ++i) __builtin_prefetch(range.row + i * kLine, 0, 2);
      lines -= range.lines;
      range.row += range.stride;
      if (--range.rows <= 0) ++next_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kRanges = 8;

  struct Range {
    const char* row;
    int64_t rows, lines, stride;
  };
  std::array<Range, kRanges> ranges_;
  int planned_ = 0, next_ = 0;
  int64_t lines_ = 0, quota_ = 0;
};

}  // namespace ropewalk
