// What the optimizers share: parameters as flat spans.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/flat/flat.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {

constexpr int64_t kSpanGrain = 1 << 15;  // elements a task
constexpr int64_t kSpanBlock = 1 << 10;  // elements updated before their working copy is made: master is still in L1

// Of at most kSpanBlock elements, in 16 interleaved sums, so that the order does not depend on the width of the vectors.
template <class W>
UpdateSquares squares_of_update(int64_t n, const W* before, const W* after) {
  constexpr int64_t kLanes = 16;
  W update[kLanes] = {}, weight[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const W change = after[i + lane] - before[i + lane];
      update[lane] += change * change;
      weight[lane] += after[i + lane] * after[i + lane];
    }
  for (int64_t lane = 0; i < n; ++i, ++lane) {
    update[lane] += (after[i] - before[i]) * (after[i] - before[i]);
    weight[lane] += after[i] * after[i];
  }
  UpdateSquares sums;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sums.update += static_cast<double>(update[lane]);
    sums.weight += static_cast<double>(weight[lane]);
  }
  return sums;
}

// Runs update(at, length) over the blocks of [0, n) with all threads.
template <class Update>
void for_blocks(int64_t n, const Update& update) {
  parallel_ranges(n, kSpanGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kSpanBlock) update(i, std::min(kSpanBlock, end - i));
  });
}

// The same, and adds the squares of what it did to `master` to squares[0] and those of the weights after it to squares[1], block for block
// while that is in L1; the sums do not depend on the threads.
template <class W, class Update>
void update_blocks(int64_t n, const W* master, double* squares, const Update& update) {
  std::vector<UpdateSquares> partials(static_cast<size_t>((n + kSpanGrain - 1) / kSpanGrain));
  parallel_ranges(n, kSpanGrain, [&](int64_t begin, int64_t end) {
    W before[kSpanBlock];
    UpdateSquares& partial = partials[static_cast<size_t>(begin / kSpanGrain)];
    for (int64_t i = begin; i < end; i += kSpanBlock) {
      const int64_t length = std::min(kSpanBlock, end - i);
      std::copy(master + i, master + i + length, before);
      update(i, length);
      const UpdateSquares block = vectorized<squares_of_update<W>>(length, static_cast<const W*>(before), master + i);
      partial.update += block.update;
      partial.weight += block.weight;
    }
  });
  UpdateSquares sums;
  for (const UpdateSquares& partial : partials) {
    sums.update += partial.update;
    sums.weight += partial.weight;
  }
  squares[0] += sums.update;
  squares[1] += sums.weight;
}

template <class W, class T>
void round_span(int64_t n, const W* from, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = T(static_cast<Wide<T>>(from[i]));
}

}  // namespace ropewalk
