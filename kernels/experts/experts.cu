#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/warps.cuh"
#include "kernels/experts/experts.h"

namespace ropewalk {
namespace {

using namespace cuda;

// ---- the plan: a stable counting sort. A warp takes a chunk of neighbouring assignments; those in no expert count as of one more.

constexpr int64_t kChunk = 1024;

struct Assignments {
  int64_t count, experts;
  const int64_t* expert;
  __device__ int of(int64_t i) const {
    const int64_t e = expert[i];
    return static_cast<int>(e >= 0 && e < experts ? e : experts);
  }
};

// count [E + 1, chunks]
__global__ void count_chunks(Assignments a, int64_t chunks, int* count) {
  const int64_t bins = a.experts + 1;
  SharedMemory shared;
  int* const of_bin = shared.take<int>(static_cast<size_t>(bins * (blockDim.x / kWarp))) + threadIdx.x / kWarp * bins;
  for_each_row_of_warp(chunks, [&](int64_t chunk) {
    for_each_of_lane(bins, [&](int e) { of_bin[e] = 0; });
    __syncwarp();
    const int64_t begin = chunk * kChunk, size = a.count - begin < kChunk ? a.count - begin : kChunk;
    for_each_of_lane(size, [&](int i) { atomicAdd(&of_bin[a.of(begin + i)], 1); });
    __syncwarp();
    for_each_of_lane(bins, [&](int e) { count[e * chunks + chunk] = of_bin[e]; });
  });
}

// Inclusive over the lanes of a warp.
__device__ int64_t warp_prefix_sum(int64_t x) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const int64_t before = __shfl_up_sync(kWholeWarp, x, static_cast<unsigned>(lanes));
    if (static_cast<int>(threadIdx.x) % kWarp >= lanes) x += before;
  }
  return x;
}

// x[i] -> the sum of x[0 .. i), by one warp; returns the sum of all.
template <class T>
__device__ int64_t sum_up(int64_t n, T* x) {
  const int lane = threadIdx.x % kWarp;
  int64_t sum = 0;
  for (int64_t first = 0; first < n; first += kWarp) {
    const int64_t i = first + lane, own = i < n ? x[i] : 0, through = warp_prefix_sum(own);
    if (i < n) x[i] = static_cast<T>(sum + through - own);
    sum += __shfl_sync(kWholeWarp, through, kWarp - 1);
  }
  return sum;
}

// One block: count -> how many of an expert's assignments stand in the chunks before; begin [E + 2] of the experts' rows.
__global__ void sum_up_counts(int64_t bins, int64_t chunks, int* count, int64_t* begin) {
  for_each_row_of_warp(bins, [&](int64_t e) {
    const int64_t sum = sum_up(chunks, count + e * chunks);
    if (threadIdx.x % kWarp == 0) begin[e] = sum;
  });
  if (threadIdx.x == 0) begin[bins] = 0;
  __syncthreads();
  if (threadIdx.x < kWarp) sum_up(bins + 1, begin);
}

// The lanes of this warp that hold the same number of `bits` bits.
__device__ unsigned same_in_warp(int x, int bits) {
  unsigned same = kWholeWarp;
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = x >> bit & 1;
    const unsigned lanes = __ballot_sync(kWholeWarp, set);
    same &= set ? lanes : ~lanes;
  }
  return same;
}

__global__ void place(Assignments a, int64_t chunks, int64_t top_k, const int* before, const int64_t* begin, int64_t* token, int64_t* row) {
  const int64_t bins = a.experts + 1;
  const int lane = threadIdx.x % kWarp;
  int bits = 0;
  while (bins >> bits > 0) ++bits;
  SharedMemory shared;
  int* const placed = shared.take<int>(static_cast<size_t>(bins * (blockDim.x / kWarp))) + threadIdx.x / kWarp * bins;
  for_each_row_of_warp(chunks, [&](int64_t chunk) {
    __syncwarp();
    for_each_of_lane(bins, [&](int e) { placed[e] = before[e * chunks + chunk]; });
    __syncwarp();
    const int64_t last = (chunk + 1) * kChunk, end = last < a.count ? last : a.count;
    for (int64_t i = chunk * kChunk + lane; i - lane < end; i += kWarp) {
      const bool there = i < end;
      const int e = there ? a.of(i) : static_cast<int>(bins);
      const unsigned same = same_in_warp(e, bits);
      const int earlier = __popc(same & ((1u << lane) - 1)), first = there ? placed[e] : 0;
      __syncwarp();
      if (there && earlier == 0) placed[e] = first + __popc(same);
      __syncwarp();
      if (!there) continue;
      const int64_t to = begin[e] + first + earlier;
      row[i] = to;
      token[to] = i / top_k;
    }
  });
}

// ---- rows

// Blocks take a token each, threads packs of its columns.
Grid tokens_by_columns(int64_t tokens, int64_t packs) {
  constexpr int64_t kMostThreads = 256, kMostBlocks = 1 << 20;
  return {.blocks = dim3(static_cast<unsigned>(std::min(tokens, kMostBlocks))),
          .threads = dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(packs, kWarp) * kWarp, kWarp, kMostThreads)))};
}

template <class Body>
__device__ void for_each_token(int64_t tokens, int64_t width, int pack, const Body& body) {
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x)
    for (int64_t c = threadIdx.x * pack; c < width; c += blockDim.x * pack) body(t, c);
}

template <int pack, class T>
__global__ void gather_sum(int64_t tokens, int64_t k, Rows<T> rows, const int64_t* row, const float* weight, Rows<T> y) {
  for_each_token(tokens, y.width, pack, [&](int64_t t, int64_t c) {
    float sum[pack] = {};
    for (int64_t j = 0; j < k; ++j) {
      const auto in = load_pack<pack>(rows[row[t * k + j]] + c);
      const float w = weight ? weight[t * k + j] : 1;
      for (int i = 0; i < pack; ++i) sum[i] += w * static_cast<float>(in.v[i]);
    }
    Pack<T, pack> out;
    for (int i = 0; i < pack; ++i) out.v[i] = static_cast<T>(sum[i]);
    store_pack(y[t] + c, out);
  });
}

template <int pack, class T>
__global__ void scatter(int64_t tokens, int64_t k, Rows<T> x, const int64_t* row, Rows<T> rows) {
  for_each_token(tokens, x.width, pack, [&](int64_t t, int64_t c) {
    const auto in = load_pack<pack>(x[t] + c);
    for (int64_t j = 0; j < k; ++j) store_pack(rows[row[t * k + j]] + c, in);
  });
}

// A warp an assignment.
template <int pack, class T>
__global__ void combine_backward(int64_t assignments, int64_t k, Rows<T> dy, Rows<T> rows, const int64_t* row, const float* weight,
                                 Rows<T> drows, float* dweight) {
  for_each_row_of_warp(assignments, [&](int64_t a) {
    const T *const d = dy[a / k], *const in = rows[row[a]];
    T* const to = drows[row[a]];
    const float w = weight[a];
    float dot = 0;
    for (int64_t c = threadIdx.x % kWarp * pack; c < dy.width; c += kWarp * pack) {
      const auto of_d = load_pack<pack>(d + c);
      const auto of_row = load_pack<pack>(in + c);
      Pack<T, pack> out;
      for (int i = 0; i < pack; ++i) {
        dot += static_cast<float>(of_d.v[i]) * static_cast<float>(of_row.v[i]);
        out.v[i] = static_cast<T>(w * static_cast<float>(of_d.v[i]));
      }
      store_pack(to + c, out);
    }
    dot = warp_sum(dot);
    if (threadIdx.x % kWarp == 0) dweight[a] = dot;
  });
}

// Calls body.operator()<pack>() for the widest packs that the rows allow.
template <class T, class Body, class... More>
void with_packs(const Body& body, const Rows<T>& first, const More&... more) {
  constexpr int kPack = kPackWidth<T>;
  const auto fits = [](const Rows<T>& x) { return x.width % kPack == 0 && packs(x.data, x.stride, kPack); };
  (fits(first) && ... && fits(more)) ? body.template operator()<kPack>() : body.template operator()<1>();
}

}  // namespace

void launch(Cuda, const SortByExpert& args) {
  const Assignments a{.count = args.expert.numel(), .experts = std::ssize(args.begin) - 1, .expert = args.expert.data<int64_t>()};
  const int64_t bins = a.experts + 1, chunks = ceil_div(a.count, kChunk);
  const Tensor counts = Tensor::empty({bins, chunks}, DType::kInt32, Cuda{}), begin = Tensor::empty({bins + 1}, DType::kInt64, Cuda{});
  const Grid by_chunk = warps_over(chunks, bins);
  run(count_chunks, by_chunk, a, chunks, counts.data<int>());
  constexpr int kThreads = 1024;
  run(sum_up_counts, {.blocks = dim3(1), .threads = dim3(kThreads)}, bins, chunks, counts.data<int>(), begin.data<int64_t>());
  run(place, by_chunk, a, chunks, args.expert.dim(-1), counts.data<int>(), begin.data<int64_t>(), args.token.data<int64_t>(),
      args.row.data<int64_t>());
  copy_to_host(args.begin.data(), begin.data<int64_t>(), args.begin.size() * sizeof(int64_t));
}

void launch(Cuda, const GatherSum& args) {
  if (args.y.numel() == 0) return;
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) {
    const Rows<T> y = rows_of<T>(args.y), rows = rows_of<T>(args.rows, "experts: rows");
    with_packs<T>(
        [&]<int pack>() {
          run(gather_sum<pack, T>, tokens_by_columns(y.count, y.width / pack), y.count, args.plan.top_k, rows,
              args.plan.row.data<int64_t>(), args.weight ? args.weight.data<float>() : nullptr, y);
        },
        y, rows);
  });
}

void launch(Cuda, const ScatterTokens& args) {
  if (args.rows.numel() == 0) return;
  dispatch_narrow(args.rows.dtype(), [&]<class T>(std::type_identity<T>) {
    const Rows<T> rows = rows_of<T>(args.rows), x = rows_of<T>(args.x, "experts: x");
    with_packs<T>(
        [&]<int pack>() {
          run(scatter<pack, T>, tokens_by_columns(x.count, x.width / pack), x.count, args.plan.top_k, x, args.plan.row.data<int64_t>(),
              rows);
        },
        x, rows);
  });
}

void launch(Cuda, const CombineBackward& args) {
  if (args.dy.numel() == 0) return args.dweight.fill(0);  // rows without elements
  dispatch_narrow(args.dy.dtype(), [&]<class T>(std::type_identity<T>) {
    const Rows<T> dy = rows_of<T>(args.dy, "experts: dy"), rows = rows_of<T>(args.rows, "experts: rows"), drows = rows_of<T>(args.drows);
    const int64_t assignments = args.plan.row.numel();
    with_packs<T>(
        [&]<int pack>() {
          run(combine_backward<pack, T>, warps_over(assignments, 0, 0, 1 << 20), assignments, args.plan.top_k, dy, rows,
              args.plan.row.data<int64_t>(), args.weight.data<float>(), drows, args.dweight.data<float>());
        },
        dy, rows, drows);
  });
}

}  // namespace ropewalk
