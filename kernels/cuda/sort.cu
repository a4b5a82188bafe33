#include <bit>
#include <utility>

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sort.cuh"

// By digits, the least first; each pass keeps the order of what is equal in its digit. A warp takes a stretch of keys: how often each digit
// stands in the stretches before, and smaller ones anywhere, says where its own go.
namespace ropewalk::cuda {
namespace {

constexpr int kBits = 8, kDigits = 1 << kBits;
constexpr int kWarps = 4, kRounds = 16, kStretch = kRounds * kWarp;  // warps a block, keys a lane, keys a warp

// The keys of this warp's stretch, a round each, and its digits' counters.
struct Stretch {
  __device__ Stretch(int64_t n, const int32_t* keys, int32_t* counters_of_block)
      : index(static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp),
        first(index * kStretch + threadIdx.x % kWarp),
        counters(counters_of_block + threadIdx.x / kWarp * kDigits) {
    for (int round = 0; round < kRounds; ++round) key[round] = first + round * kWarp < n ? keys[first + round * kWarp] : -1;
  }

  int64_t index, first;
  int32_t* counters;
  int32_t key[kRounds];  // -1: beyond the end
};

__device__ int digit_of(int32_t key, int shift) { return key >> shift & (kDigits - 1); }

// counts[digit][stretch]
__global__ void count_digits(int64_t n, int64_t stretches, int shift, const int32_t* keys, int32_t* counts) {
  SharedMemory shared;
  const Stretch mine(n, keys, shared.take<int32_t>(kWarps * kDigits));
  const int lane = threadIdx.x % kWarp;
  for (int digit = lane; digit < kDigits; digit += kWarp) mine.counters[digit] = 0;
  __syncwarp();
  for (int round = 0; round < kRounds; ++round)
    if (mine.key[round] >= 0) atomicAdd(mine.counters + digit_of(mine.key[round], shift), 1);
  __syncwarp();
  if (mine.index < stretches)
    for (int digit = lane; digit < kDigits; digit += kWarp) counts[digit * stretches + mine.index] = mine.counters[digit];
}

// Each count becomes the sum of those before it; one block.
__global__ void add_up_before(int64_t n, int32_t* counts) {
  SharedMemory shared;
  int32_t* const of_warp = shared.take<int32_t>(kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t each = ceil_div(n, blockDim.x), begin = each * threadIdx.x, end = begin + each < n ? begin + each : n;
  int32_t mine = 0;
  for (int64_t i = begin; i < end; ++i) mine += counts[i];
  int32_t up_to = mine;  // with those of the lanes before
  for (int step = 1; step < kWarp; step *= 2) {
    const int32_t before = __shfl_up_sync(kWholeWarp, up_to, step);
    if (lane >= step) up_to += before;
  }
  if (lane == kWarp - 1) of_warp[warp] = up_to;
  __syncthreads();
  int32_t sum = up_to - mine;
  for (int w = 0; w < warp; ++w) sum += of_warp[w];
  for (int64_t i = begin; i < end; ++i) {
    const int32_t count = counts[i];
    counts[i] = sum;
    sum += count;
  }
}

// `places` as count_digits counted and add_up_before added up. positions null: 0, 1, ..
__global__ void move_keys(int64_t n, int64_t stretches, int shift, const int32_t* keys, const int32_t* positions, const int32_t* places,
                          int32_t* to_keys, int32_t* to_positions) {
  SharedMemory shared;
  const Stretch mine(n, keys, shared.take<int32_t>(kWarps * kDigits));
  const int lane = threadIdx.x % kWarp;
  if (mine.index < stretches)
    for (int digit = lane; digit < kDigits; digit += kWarp) mine.counters[digit] = places[digit * stretches + mine.index];
  __syncwarp();
  for (int round = 0; round < kRounds; ++round) {
    const int32_t key = mine.key[round];
    const int digit = key < 0 ? -1 : digit_of(key, shift);
    const unsigned alike = __match_any_sync(kWholeWarp, digit);
    const int before = __popc(alike & ((1u << lane) - 1));
    const int32_t place = digit < 0 ? 0 : mine.counters[digit] + before;
    __syncwarp();
    if (digit >= 0) {
      if (before == 0) mine.counters[digit] = place + __popc(alike);
      const int64_t from = mine.first + round * kWarp;
      to_keys[place] = key;
      to_positions[place] = positions ? positions[from] : static_cast<int32_t>(from);
    }
    __syncwarp();
  }
}

}  // namespace

SortedPositions sort_positions(const Tensor& keys, int64_t bound) {
  const int64_t n = keys.numel(), stretches = ceil_div(n, kStretch);
  expect(n < int64_t{1} << 31 && bound <= int64_t{1} << 31, "sort_positions: expected fewer than 2^31 keys and values, given {} and {}", n,
         bound);
  const auto integers = [](int64_t count) { return Tensor::empty({count}, DType::kInt32, Cuda{}); };
  const Tensor counts = integers(kDigits * stretches);
  const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(stretches, kWarps))),
                  .threads = dim3(kWarps * kWarp),
                  .shared = shared_bytes<int32_t>(kWarps * kDigits)};
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(bound - 1))));
  SortedPositions sorted{.keys = keys, .positions = {}};
  for (int shift = 0; shift < bits; shift += kBits) {
    const SortedPositions from = std::exchange(sorted, {.keys = integers(n), .positions = integers(n)});
    run(count_digits, grid, n, stretches, shift, from.keys.data<int32_t>(), counts.data<int32_t>());
    run(add_up_before, {.blocks = dim3(n > 0), .threads = dim3(1024), .shared = shared_bytes<int32_t>(kWarp)}, counts.numel(),
        counts.data<int32_t>());
    run(move_keys, grid, n, stretches, shift, from.keys.data<int32_t>(), from.positions ? from.positions.data<int32_t>() : nullptr,
        counts.data<int32_t>(), sorted.keys.data<int32_t>(), sorted.positions.data<int32_t>());
  }
  return sorted;
}

}  // namespace ropewalk::cuda
