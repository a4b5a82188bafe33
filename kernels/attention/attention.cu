#include "kernels/attention/attention.h"
#include "kernels/attention/tiles.cuh"
#include "kernels/cuda/upload.cuh"

namespace ropewalk {
namespace {

using namespace attention_tiles;

// What the kernels over queries (forward, dq) and over keys (dk, dv) are started with.
template <class T>
struct Operands {
  Heads<const T> q, k, v;
  int group;  // query heads a kv head
  int heads;
  int64_t tokens;  // queries a row
  Work work;
  Reach reach;
  float scale;
  bool merge;
  // Where the statistic of a query stands in [B, H, S].
  __device__ int64_t statistic_at(int row, int head, int token) const {
    return (static_cast<int64_t>(row) * heads + head) * tokens + token;
  }
};

// Sizes of tiles: sums and scores of a warp stay in registers, and where they can, two blocks share a multiprocessor.
template <class T, int width>
struct ForwardTiles {
  static constexpr bool kNarrow = std::is_same_v<T, bfloat16>;
  static constexpr int kSlabs = kNarrow && width <= 128 ? 2 : 1, kRows = kWarps * 16 * kSlabs, kKeys = kNarrow && width <= 128 ? 64 : 32;
  static constexpr int kHeld = tile_size<T, width>(kRows), kStreamed = tile_size<T, width>(kKeys);
  static constexpr size_t kShared = shared_bytes<T>(kHeld) + 2 * shared_bytes<T>(2 * kStreamed);
};
template <class T, int width>
struct QueryTiles {
  static constexpr bool kNarrow = std::is_same_v<T, bfloat16>;
  static constexpr int kSlabs = kNarrow && width <= 128 ? 2 : 1, kRows = kWarps * 16 * kSlabs,
                       kKeys = kNarrow && width <= 64    ? 64
                               : width <= 128 || kNarrow ? 32
                                                         : 16;
  static constexpr int kHeld = tile_size<T, width>(kRows), kStreamed = tile_size<T, width>(kKeys);
  static constexpr size_t kShared = 2 * shared_bytes<T>(kHeld) + 2 * shared_bytes<T>(2 * kStreamed);
};
// Of wide heads, a block finds the gradients of kColumns columns only.
template <class T, int width>
struct KeyTiles {
  static constexpr bool kNarrow = std::is_same_v<T, bfloat16>;
  static constexpr int kRows = kWarps * 16, kColumns = std::min(width, 128), kQueries = (kNarrow ? 64 : 32) / (width <= 128 ? 1 : 2);
  static constexpr int kHeld = tile_size<T, width>(kRows), kStreamed = tile_size<T, width>(kQueries);
  static constexpr size_t kShared = 2 * shared_bytes<T>(kHeld) + 2 * shared_bytes<T>(2 * kStreamed) + 2 * shared_bytes<float>(2 * kQueries);
};

// ---- forward

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
  const AttentionTask task = a.work.task();
  const int head = a.work.head(), begin = static_cast<int>(threadIdx.x) / kWarp * 16 * kSlabs;  // of the warp
  load_tokens<Tiles::kRows, width>(a.q, task.row, task.begin, head, task.length, q_tile);

  Scores<kSlabs, width> sums;
  Softmax<kSlabs> softmax;
  stream<kKeys>(
      Walk(task, a.work.meetings, 1),
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

// ---- backward

// delta [B, H, S] = <dy, y> of each query and head: what the softmax's normalisation takes off every slope. Eight lanes each.
template <int pack, class T>
__global__ void find_delta(int64_t count, int64_t tokens, int heads, Heads<const T> y, Heads<const T> dy, float* delta) {
  constexpr int kLanes = 8;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x / kLanes;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp * (kWarp / kLanes); first < count;
       first += step) {
    const int64_t item = first + threadIdx.x % kWarp / kLanes;
    const int head = static_cast<int>(item % heads), token = static_cast<int>(item / heads % tokens),
              row = static_cast<int>(item / heads / tokens);
    float sum = 0;
    if (item < count) {
      const T *const of_y = y.at(row, token, head), *const of_dy = dy.at(row, token, head);
      for (int at = lane * pack; at < y.width; at += kLanes * pack) {
        const auto a = load_pack<pack>(of_y + at);
        const auto b = load_pack<pack>(of_dy + at);
        for (int i = 0; i < pack; ++i) sum += static_cast<float>(a.v[i]) * static_cast<float>(b.v[i]);
      }
    }
    sum = warp_sum(sum, kLanes);
    if (item < count && lane == 0) delta[(static_cast<int64_t>(row) * heads + head) * tokens + token] = sum;
  }
}

// With p the probabilities, dp = dy v^T and slopes = p * (dp - delta): dq = scale * slopes k.
template <class T, int width>
__global__ void __launch_bounds__(kThreads)
    find_query_gradients(Operands<T> a, Heads<const T> dy, const float* lse, const float* delta, Results<T> dq) {
  using Tiles = QueryTiles<T, width>;
  constexpr int kSlabs = Tiles::kSlabs, kKeys = Tiles::kKeys;
  SharedMemory shared;
  T *const q_tile = shared.take<T>(Tiles::kHeld), *const dy_tile = shared.take<T>(Tiles::kHeld);
  T *const k_tiles = shared.take<T>(2 * Tiles::kStreamed), *const v_tiles = shared.take<T>(2 * Tiles::kStreamed);
  const AttentionTask task = a.work.task();
  const int head = a.work.head(), begin = static_cast<int>(threadIdx.x) / kWarp * 16 * kSlabs;  // of the warp
  load_tokens<Tiles::kRows, width>(a.q, task.row, task.begin, head, task.length, q_tile);
  load_tokens<Tiles::kRows, width>(dy, task.row, task.begin, head, task.length, dy_tile);
  RowValues<kSlabs> log_sum, along;
  for (int s = 0; s < kSlabs; ++s)
    for (int i = 0; i < 4; i += 2) {
      const int row = begin + row_of(s, i);
      const int64_t at = a.statistic_at(task.row, head, task.begin + row);
      log_sum.at(s, i) = row < task.length ? lse[at] * kLog2E : kInfinity;
      along.at(s, i) = row < task.length ? delta[at] : 0;
    }

  Scores<kSlabs, width> sums;
  stream<kKeys>(
      Walk(task, a.work.meetings, 1),
      [&](const Walk& at, int stage) {
        const int row = at.meeting().row, tokens = at.tokens(kKeys);
        load_tokens<kKeys, width>(a.k, row, at.begin(), head / a.group, tokens, k_tiles + stage * Tiles::kStreamed);
        load_tokens<kKeys, width>(a.v, row, at.begin(), head / a.group, tokens, v_tiles + stage * Tiles::kStreamed);
      },
      [&](const Walk& at, int stage) {
        const Sight sight(at, kKeys, a.reach);
        if (!sight.any(begin, 16 * kSlabs)) return;
        const T *const k_tile = k_tiles + stage * Tiles::kStreamed, *const v_tile = v_tiles + stage * Tiles::kStreamed;
        Scores<kSlabs, kKeys> p, slopes;
        multiply<width>(p, q_tile + begin * kStride<T, width>, k_tile);
        multiply<width>(slopes, dy_tile + begin * kStride<T, width>, v_tile);
        scale_and_hide(sight, begin, a.scale * kLog2E, p);
        for_each_sum(slopes, [&](float& slope, int s, int i, int column) {
          slope = fast_exp2(p.v[s][column / 8].v[i] - log_sum.at(s, i)) * (slope - along.at(s, i));
        });
        multiply_sums<kStride<T, width>>(sums, slopes, k_tile);
      });
  store(dq, task.row, task.begin + begin, head, 0, task.length - begin, sums, everywhere<kSlabs>(a.scale),
        everywhere<kSlabs>(a.merge ? 1 : 0));
}

// Rows are keys, so that no product needs a transposed sum: dv = p^T dy, dk = scale * slopes^T q.
template <class T, int width>
__global__ void __launch_bounds__(kThreads)
    find_key_gradients(Operands<T> a, Heads<const T> dy, const float* lse, const float* delta, Results<T> dk, Results<T> dv) {
  using Tiles = KeyTiles<T, width>;
  constexpr int kQueries = Tiles::kQueries, kColumns = Tiles::kColumns, kParts = width / kColumns;
  SharedMemory shared;
  T *const k_tile = shared.take<T>(Tiles::kHeld), *const v_tile = shared.take<T>(Tiles::kHeld);
  T *const q_tiles = shared.take<T>(2 * Tiles::kStreamed), *const dy_tiles = shared.take<T>(2 * Tiles::kStreamed);
  float *const lse_tiles = shared.take<float>(2 * kQueries), *const delta_tiles = shared.take<float>(2 * kQueries);
  const AttentionTask task = a.work.task();
  const int kv_head = a.work.head() / kParts, first_column = a.work.head() % kParts * kColumns;
  const int begin = static_cast<int>(threadIdx.x) / kWarp * 16;  // of the warp
  load_tokens<Tiles::kRows, width>(a.k, task.row, task.begin, kv_head, task.length, k_tile);
  load_tokens<Tiles::kRows, width>(a.v, task.row, task.begin, kv_head, task.length, v_tile);

  Scores<1, kColumns> dk_sums, dv_sums;
  stream<kQueries>(
      Walk(task, a.work.meetings, a.group),
      [&](const Walk& at, int stage) {
        const int row = at.meeting().row, head = kv_head * a.group + at.head(), tokens = at.tokens(kQueries);
        load_tokens<kQueries, width>(a.q, row, at.begin(), head, tokens, q_tiles + stage * Tiles::kStreamed);
        load_tokens<kQueries, width>(dy, row, at.begin(), head, tokens, dy_tiles + stage * Tiles::kStreamed);
        const int i = static_cast<int>(threadIdx.x);
        if (i >= kQueries) return;
        const int64_t statistic = a.statistic_at(row, head, at.begin() + i);
        copy_later(lse_tiles + stage * kQueries + i, lse + statistic, i < tokens);
        copy_later(delta_tiles + stage * kQueries + i, delta + statistic, i < tokens);
      },
      [&](const Walk& at, int stage) {
        const Sight sight(at, kQueries, a.reach);
        if (!sight.any(begin, 16)) return;
        const T *const q_tile = q_tiles + stage * Tiles::kStreamed, *const dy_tile = dy_tiles + stage * Tiles::kStreamed;
        Scores<1, kQueries> p, slopes;
        multiply<width>(p, k_tile + begin * kStride<T, width>, q_tile);
        scale_and_hide(sight, begin, a.scale * kLog2E, p);
        for_each_sum(p,
                     [&](float& score, int, int, int column) { score = fast_exp2(score - lse_tiles[stage * kQueries + column] * kLog2E); });
        multiply_sums<kStride<T, width>>(dv_sums, p, dy_tile + first_column);
        multiply<width>(slopes, v_tile + begin * kStride<T, width>, dy_tile);
        for_each_sum(slopes, [&](float& slope, int s, int i, int column) {
          slope = p.v[s][column / 8].v[i] * (slope - delta_tiles[stage * kQueries + column]);
        });
        hide(sight, begin, 0, slopes);  // keys that nobody sees may be anything, and 0 times a NaN is a NaN
        multiply_sums<kStride<T, width>>(dk_sums, slopes, q_tile + first_column);
      });
  const int rows = task.length - begin;
  store(dk, task.row, task.begin + begin, kv_head, first_column, rows, dk_sums, everywhere<1>(a.scale), everywhere<1>(0));
  store(dv, task.row, task.begin + begin, kv_head, first_column, rows, dv_sums, everywhere<1>(1), everywhere<1>(0));
}

// ---- launches

// A list on the device, for as long as this lives.
class UploadedTasks {
 public:
  explicit UploadedTasks(const AttentionTasks& list) : tasks_(upload(list.tasks)), meetings_(upload(list.meetings)) {}
  Work of(int heads) const { return {.tasks = tasks_.data, .meetings = meetings_.data, .heads = heads}; }
  Grid grid(const Work& work, size_t shared) const {
    return {.blocks = dim3(static_cast<unsigned>(tasks_.count * work.heads)), .threads = dim3(kThreads), .shared = shared};
  }

 private:
  Uploaded<AttentionTask> tasks_;
  Uploaded<Meeting> meetings_;
};

Visibility visibility_of(const AttentionOptions& options) {
  return {std::min(options.window.value_or(Visibility::kUnlimited), Visibility::kUnlimited)};
}
int reach_of(const AttentionOptions& options) { return static_cast<int>(std::min<int64_t>(options.window.value_or(kFar), kFar)); }

template <class T, class Args>
Operands<T> operands_of(const Args& args) {
  return {.q = heads_of<const T>(args.q),
          .k = heads_of<const T>(args.k),
          .v = heads_of<const T>(args.v),
          .group = static_cast<int>(args.q.dim(2) / args.k.dim(2)),
          .heads = static_cast<int>(args.q.dim(2)),
          .tokens = args.q.dim(1),
          .work = {},
          .reach = {},
          .scale = static_cast<float>(args.options.scale),
          .merge = args.merge};
}

// Calls body.operator()<T, width>() for the width of tiles that holds the heads.
template <class Body>
void dispatch_tiles(const Tensor& q, const Body& body) {
  expect(q.dim(3) <= 256, "attention: q: expected heads of width at most 256 on a GPU, given {}", q.dim(3));
  dispatch_narrow(q.dtype(), [&]<class T>(std::type_identity<T>) {
    if (q.dim(3) <= 64) return body.template operator()<T, 64>();
    if (q.dim(3) <= 128) return body.template operator()<T, 128>();
    body.template operator()<T, 256>();
  });
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

template <class T>
Tensor delta_of(const AttentionBackward& args) {
  const Tensor delta = empty_like(args.lse);
  const auto y = heads_of<const T>(args.y), dy = heads_of<const T>(args.dy);
  constexpr int kPack = kPackWidth<T>, kLanes = 8;
  const auto kernel = y.in_packs && dy.in_packs ? find_delta<kPack, T> : find_delta<1, T>;
  run(kernel, grid_for(delta.numel() * kLanes), delta.numel(), args.q.dim(1), static_cast<int>(args.q.dim(2)), y, dy, delta.data<float>());
  return delta;
}

template <class T, int width>
void backward(const AttentionBackward& args) {
  Operands<T> a = operands_of<T>(args);
  const auto dy = heads_of<const T>(args.dy);
  const float* const lse = args.lse.data<float>();
  const Tensor delta = delta_of<T>(args);
  if (args.dq) {
    using Tiles = QueryTiles<T, width>;
    const UploadedTasks tasks(query_tasks(args.spans, visibility_of(args.options), Tiles::kRows));
    a.work = tasks.of(a.heads);
    a.reach = {.before = reach_of(args.options) - 1, .behind = 1};
    run(find_query_gradients<T, width>, tasks.grid(a.work, Tiles::kShared), a, dy, lse, delta.data<float>(), results_of<T>(args.dq));
  }
  if (args.dk) {
    using Tiles = KeyTiles<T, width>;
    const UploadedTasks tasks(key_tasks(args.spans, visibility_of(args.options), args.k.shape(), Tiles::kRows));
    a.work = tasks.of(static_cast<int>(args.k.dim(2)) * (width / Tiles::kColumns));
    a.reach = {.before = 0, .behind = reach_of(args.options)};
    run(find_key_gradients<T, width>, tasks.grid(a.work, Tiles::kShared), a, dy, lse, delta.data<float>(), results_of<T>(args.dk),
        results_of<T>(args.dv));
  }
}

}  // namespace

void launch(Cuda, const AttentionForward& args) {
  dispatch_tiles(args.q, [&]<class T, int width>() { forward<T, width>(args); });
}

void launch(Cuda, const AttentionBackward& args) {
  dispatch_tiles(args.q, [&]<class T, int width>() { backward<T, width>(args); });
}

}  // namespace ropewalk
