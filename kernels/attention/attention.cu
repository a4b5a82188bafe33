#include "kernels/attention/operands.cuh"

namespace ropewalk {
namespace {

using namespace attention_tiles;

// Sizes of tiles: sums and scores of a warp stay in registers, and where they can, two blocks share a multiprocessor.
template <class T, int width>
struct ForwardTiles {
  static constexpr bool kNarrow = std::is_same_v<T, bfloat16>;
  static constexpr int kSlabs = kNarrow && width <= 128 ? 2 : 1, kRows = kWarps * 16 * kSlabs, kKeys = kNarrow && width <= 128 ? 64 : 32;
  static constexpr int kHeld = tile_size<T, width>(kRows), kStreamed = tile_size<T, width>(kKeys);
  static constexpr size_t kShared = shared_bytes<T>(kHeld) + 2 * shared_bytes<T>(2 * kStreamed);
};

// The online softmax of a warp's rows, in powers of 2.
template <int slabs>
class Softmax {
 public:
  __device__ Softmax() {
    for (int s = 0; s < slabs; ++s)
      for (int i = 0; i < 4; i += 2) top_.at(s, i) = -__FLT_MAX__;  // finite, so that hidden scores give 0 and never NaN
  }
  // Scores become 2^(score - top), where top is about the largest of the row so far; y, made with the tops before, follows. A top that is
  // passed by little stays: 2^kSlack is as good as 1, and nothing decays.
  template <int keys, int width>
  __device__ void step(Scores<slabs, keys>& scores, Scores<slabs, width>& y) {
    constexpr float kSlack = 8;
    RowValues<slabs> decay;
    bool moves = false;
#pragma unroll
    for (int s = 0; s < slabs; ++s)
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        float largest = -kInfinity;
#pragma unroll
        for (int j = 0; j < keys / 8; ++j) largest = fmaxf(largest, fmaxf(scores.v[s][j].v[i], scores.v[s][j].v[i + 1]));
        largest = warp_max(largest, 4);
        float& top = top_.at(s, i);
        const float before = top;
        if (largest > before + kSlack) top = largest;
        decay.at(s, i) = fast_exp2(before - top);
        moves |= top != before;
      }
    if (__ballot_sync(kWholeWarp, moves)) {
      for_each_sum(y, [&](float& sum, int s, int i, int) { sum *= decay.at(s, i); });
      for (int s = 0; s < slabs; ++s)
        for (int i = 0; i < 4; i += 2) sums_.at(s, i) *= decay.at(s, i);
    }
    for_each_sum(scores, [&](float& score, int s, int i, int) {
      score = fast_exp2(score - top_.at(s, i));
      sums_.at(s, i) += score;
    });
  }
  // Over all lanes of the row.
  __device__ float sum(int slab, int i) const { return warp_sum(sums_.at(slab, i), 4); }
  __device__ float top(int slab, int i) const { return top_.at(slab, i); }

 private:
  RowValues<slabs> top_, sums_ = everywhere<slabs>(0);
};

// Of a softmax over two sets of keys.
struct Shares {
  float before, now;
};
// From the log-sum-exps over both; lse becomes that over all of them. +infinity: no keys.
__device__ Shares merge_log_sums(float& lse, float found) {
  if (found == kInfinity) return {1, 0};
  if (lse == kInfinity) {
    lse = found;
    return {0, 1};
  }
  const float larger = fmaxf(lse, found), before = expf(lse - larger), now = expf(found - larger), both = before + now;
  lse = larger + logf(both);
  return {before / both, now / both};
}

template <class T, int width>
__global__ void __launch_bounds__(kThreads) attend(Operands<T> a, Results<T> y, float* lse) {
  using Tiles = ForwardTiles<T, width>;
  constexpr int kSlabs = Tiles::kSlabs, kKeys = Tiles::kKeys;
  SharedMemory shared;
  T* const q_tile = shared.take<T>(Tiles::kHeld);
  T *const k_tiles = shared.take<T>(2 * Tiles::kStreamed), *const v_tiles = shared.take<T>(2 * Tiles::kStreamed);
  const int head = a.work.head(), begin = static_cast<int>(threadIdx.x) / kWarp * 16 * kSlabs;  // of the warp
  const AttentionTask begun = a.work.task();
  load_tokens<Tiles::kRows, width>(a.q, begun.row, begun.begin, head, begun.length, q_tile);

  Scores<kSlabs, width> sums;
  Softmax<kSlabs> softmax;
  stream<kKeys>(
      Walk(begun, a.work.meetings, 1),
      [&](const Walk& at, int stage) {
        const int row = at.meeting().row, tokens = at.tokens(kKeys);
        load_tokens<kKeys, width>(a.k, row, at.begin(), head / a.group, tokens, k_tiles + stage * Tiles::kStreamed);
        load_tokens<kKeys, width>(a.v, row, at.begin(), head / a.group, tokens, v_tiles + stage * Tiles::kStreamed);
      },
      [&](const Walk& at, int stage) {
        const Sight sight(at, kKeys, a.reach);
        if (!sight.any(begin, 16 * kSlabs)) return;
        Scores<kSlabs, kKeys> p;
        multiply<width>(p, q_tile + begin * kStride<T, width>, k_tiles + stage * Tiles::kStreamed);
        scale_and_hide(sight, begin, a.scale * kLog2E, p);
        softmax.step(p, sums);
        multiply_sums<kStride<T, width>>(sums, p, v_tiles + stage * Tiles::kStreamed);
      });

  const AttentionTask task = a.work.task();  // read again: what lives meanwhile costs registers
  RowValues<kSlabs> factor, kept = everywhere<kSlabs>(0);
  for (int s = 0; s < kSlabs; ++s)
    for (int i = 0; i < 4; i += 2) {
      const int row = begin + row_of(s, i);
      const float sum = softmax.sum(s, i);
      float log_sum = sum == 0 ? kInfinity : (softmax.top(s, i) + log2f(sum)) / kLog2E;
      factor.at(s, i) = sum == 0 ? 0 : 1 / sum;
      float* const there = lse + a.statistic_at(task.row, head, task.begin + row);
      if (a.merge && row < task.length) {
        float both = *there;
        const Shares shares = merge_log_sums(both, log_sum);
        factor.at(s, i) *= shares.now;
        kept.at(s, i) = shares.before;
        log_sum = both;
      }
      __syncwarp();  // four lanes have read it
      if (row < task.length && threadIdx.x % 4 == 0) *there = log_sum;
    }
  store(y, task.row, task.begin + begin, head, 0, task.length - begin, sums, factor, kept);
}

template <class T, int width>
void forward(const AttentionForward& args) {
  using Tiles = ForwardTiles<T, width>;
  const UploadedTasks tasks(query_tasks(args.spans, visibility_of(args.options), Tiles::kRows));
  Operands<T> a = operands_of<T>(args);
  a.work = tasks.of(a.heads);
  a.reach = {.before = reach_of(args.options) - 1, .behind = 1};
  run(attend<T, width>, tasks.grid(a.work, Tiles::kShared), a, results_of<T>(args.y), args.lse.data<float>());
}

}  // namespace

void launch(Cuda, const AttentionForward& args) {
  dispatch_tiles(args.q, [&]<class T, int width>() { forward<T, width>(args); });
}

}  // namespace ropewalk
