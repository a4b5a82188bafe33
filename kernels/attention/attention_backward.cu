#include "kernels/attention/operands.cuh"

namespace ropewalk {
namespace {

using namespace attention_tiles;

// Sizes of tiles: sums, scores and slopes of a warp stay in registers.
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
  static constexpr int kRows = kWarps * 16, kColumns = std::min(width, 128),
                       kQueries = (kNarrow ? 64 : 32) / (width > (kNarrow ? 128 : 64) ? 2 : 1);
  static constexpr int kHeld = tile_size<T, width>(kRows), kStreamed = tile_size<T, width>(kQueries);
  static constexpr size_t kShared = 2 * shared_bytes<T>(kHeld) + 2 * shared_bytes<T>(2 * kStreamed) + 2 * shared_bytes<float>(2 * kQueries);
};

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
  const AttentionTask begun = a.work.task();
  const int head = a.work.head(), begin = static_cast<int>(threadIdx.x) / kWarp * 16 * kSlabs;  // of the warp
  load_tokens<Tiles::kRows, width>(a.q, begun.row, begun.begin, head, begun.length, q_tile);
  load_tokens<Tiles::kRows, width>(dy, begun.row, begun.begin, head, begun.length, dy_tile);
  RowValues<kSlabs> log_sum, along;
  for (int s = 0; s < kSlabs; ++s)
    for (int i = 0; i < 4; i += 2) {
      const int row = begin + row_of(s, i);
      const int64_t at = a.statistic_at(begun.row, head, begun.begin + row);
      log_sum.at(s, i) = row < begun.length ? lse[at] * kLog2E : kInfinity;
      along.at(s, i) = row < begun.length ? delta[at] : 0;
    }

  Scores<kSlabs, width> sums;
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
  const AttentionTask task = a.work.task();  // read again: what lives meanwhile costs registers
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
  const AttentionTask begun = a.work.task();
  const int kv_head = a.work.head() / kParts, first_column = a.work.head() % kParts * kColumns;
  const int begin = static_cast<int>(threadIdx.x) / kWarp * 16;  // of the warp
  load_tokens<Tiles::kRows, width>(a.k, begun.row, begun.begin, kv_head, begun.length, k_tile);
  load_tokens<Tiles::kRows, width>(a.v, begun.row, begun.begin, kv_head, begun.length, v_tile);

  Scores<1, kColumns> dk_sums, dv_sums;
  stream<kQueries>(
      Walk(begun, a.work.meetings, a.group),
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
  const AttentionTask task = a.work.task();  // read again: what lives meanwhile costs registers
  const int rows = task.length - begin;
  store(dk, task.row, task.begin + begin, kv_head, first_column, rows, dk_sums, everywhere<1>(a.scale), everywhere<1>(0));
  store(dv, task.row, task.begin + begin, kv_head, first_column, rows, dv_sums, everywhere<1>(1), everywhere<1>(0));
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

void launch(Cuda, const AttentionBackward& args) {
  dispatch_tiles(args.q, [&]<class T, int width>() { backward<T, width>(args); });
}

}  // namespace ropewalk
