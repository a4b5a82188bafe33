// Rows whose channels are taken in stretches, each normalised or summed alone: what the kernels of norms have in common. A team of threads
// takes one stretch after the other and holds its operands in registers, so that memory is read once. Where a stretch has more channels
// than a team's registers, it is read again where it is needed again, then from a cache.
//
//   SharedMemory shared;
//   for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
//     const auto in = team.hold(x[team.row()] + team.first());
//     team.each_pack([&](int slot, int c) { .. in.at(slot, c).v[0 .. pack) are channels c and on of the stretch .. });
//
// All threads of a block go through the same rounds; a team that has no stretch left in the last one finds no packs in it.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/unroll.cuh"

namespace ropewalk::cuda {

// A row of `width` channels is `places` stretches of n; the last may be shorter.
struct Stretches {
  int64_t rows;
  int width, places, n;
};

// A block's threads at most, and how many such blocks stand on a multiprocessor at least: what __launch_bounds__ is told, so that a thread
// has 80 registers where it holds one pack, and 128 elsewhere.
template <int held>
constexpr int kMostThreads = held == 1 ? 256 : 512;
template <int held>
constexpr int kLeastBlocks = held == 1 ? 3 : 1;

// blockDim.x threads, a power of two or whole warps; blockDim.y teams are a block. Blocks of a grid with y > 1 keep to one place of the
// row, blockIdx.y. A thread has up to `held` packs of a stretch, neighbours with neighbouring threads; held = 0: any number.
template <int pack, int held>
class Team {
 public:
  __device__ Team(const Stretches& s, SharedMemory& shared) : s_(s), room_(shared.take<float>(kMostSums * kMostWarps)) {
    const int64_t team = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y, teams = static_cast<int64_t>(gridDim.x) * blockDim.y;
    places_ = gridDim.y > 1 ? 1 : s.places;
    rounds_ = ceil_div(s.rows * places_, teams);
    row_ = team / places_;
    place_ = static_cast<int>(team % places_) + static_cast<int>(blockIdx.y);
    rows_on_ = teams / places_;
    places_on_ = static_cast<int>(teams % places_);
  }
  static constexpr size_t bytes() { return shared_bytes<float>(kMostSums * kMostWarps); }

  __device__ bool goes_on() const { return rounds_ > 0; }
  __device__ void go_on() {
    --rounds_;
    row_ += rows_on_;
    place_ += places_on_;
    if (places_on_ > 0 && place_ >= places_) {
      place_ -= places_;
      ++row_;
    }
  }

  __device__ int64_t row() const { return row_; }
  __device__ int place() const { return place_; }
  __device__ int first() const { return place_ * s_.n; }  // channel of the row
  // The stretch's channels.
  __device__ int size() const { return row_ < s_.rows ? size_at(place_) : 0; }
  __device__ int size_at(int place) const {
    const int rest = s_.width - place * s_.n;
    return rest < s_.n ? rest : s_.n;
  }

  // A value a stretch: [row][place].
  __device__ float read(const Rows<float>& values) const { return row_ < s_.rows ? values[row_][place_] : 0; }
  __device__ void write(const Rows<float>& values, float value) const {
    if (threadIdx.x == 0 && row_ < s_.rows) values[row_][place_] = value;
  }

  // Calls body(slot, c) for this thread's packs; slot is known to the compiler.
  template <class Body>
  __device__ void each_pack(const Body& body) const {
    each_pack_of(size(), body);
  }
  template <class Body>
  __device__ static void each_pack_of(int n, const Body& body) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    if constexpr (held == 0) {
      for (int c = thread * pack; c < n; c += threads * pack) body(0, c);
    } else {
      unrolled<held>([&](int slot) {
        const int c = (slot * threads + thread) * pack;
        if (c < n) body(slot, c);
      });
    }
  }

  // This thread's packs of an operand, `from` its first channel in the stretch.
  template <class T>
  class Held {
   public:
    __device__ Held(const Team& team, const T* from) : from_(from) {
      if constexpr (held > 0) team.each_pack([&](int slot, int c) { packs_[slot] = load_pack<pack>(from + c); });
    }
    __device__ Pack<T, pack> at(int slot, int c) const {
      if constexpr (held > 0)
        return packs_[slot];
      else
        return load_pack<pack>(from_ + c);
    }

   private:
    const T* from_;
    Pack<T, pack> packs_[held > 0 ? held : 1];
  };
  template <class T>
  __device__ Held<T> hold(const T* from) const {
    return Held<T>(*this, from);
  }

  // Over the team; each thread gets the sums.
  template <int count>
  __device__ void sum(float (&x)[count]) {
    static_assert(count <= kMostSums);
    const int threads = static_cast<int>(blockDim.x);
    for (float& value : x) value = warp_sum(value, threads < kWarp ? threads : kWarp);
    if (threads > kWarp) join_warps(x);
  }
  __device__ float sum(float x) {
    float sums[1] = {x};
    sum(sums);
    return sums[0];
  }

 private:
  static constexpr int kMostSums = 2, kMostWarps = kMostThreads<held> / kWarp;

  template <int count>
  __device__ void join_warps(float (&x)[count]) {
    const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int first = static_cast<int>(threadIdx.y) * warps, warp = first + static_cast<int>(threadIdx.x) / kWarp;
    __syncthreads();
    if (lane == 0)
      for (int i = 0; i < count; ++i) room_[i * kMostWarps + warp] = x[i];
    __syncthreads();
    for (int i = 0; i < count; ++i) x[i] = warp_sum(lane < warps ? room_[i * kMostWarps + first + lane] : 0);
  }

  Stretches s_;
  float* room_;
  int64_t rounds_, row_, rows_on_;
  int places_, place_, places_on_;  // places that this block goes through
};

// Sums over stretches, a channel each: what the gradient of a parameter is made of. None are left where `parts` is null.
template <int pack, int held>
class ChannelSums {
 public:
  __device__ ChannelSums(int n, float* parts, SharedMemory& shared) : n_(n), parts_(parts) {
    mine_ = shared.take<float>(parts ? floats(blockDim.y, n) : 0) + threadIdx.y * n;
    if constexpr (held == 0)
      if (parts) Team<pack, held>::each_pack_of(n, [&](int, int c) { store_pack(mine_ + c, Pack<float, pack>{}); });
  }
  static constexpr size_t floats(unsigned teams, int n) { return held > 0 && teams == 1 ? 0 : static_cast<size_t>(n) * teams; }

  // This thread's sums of a pack, to be added to and put back.
  __device__ Pack<float, pack> at(int slot, int c) const {
    if constexpr (held > 0)
      return sums_[slot];
    else
      return parts_ ? load_pack<pack>(mine_ + c) : Pack<float, pack>{};
  }
  __device__ void put(int slot, int c, const Pack<float, pack>& sums) {
    if constexpr (held > 0)
      sums_[slot] = sums;
    else if (parts_)
      store_pack(mine_ + c, sums);
  }
  // parts[at .. at + size) <- the block's sums, its teams in order.
  __device__ void leave(int64_t at, int size) const {
    if (!parts_) return;
    if (held > 0 && blockDim.y == 1) {
      Team<pack, held>::each_pack_of(size, [&](int slot, int c) { store_pack(parts_ + at + c, sums_[slot]); });
      return;
    }
    if constexpr (held > 0) Team<pack, held>::each_pack_of(n_, [&](int slot, int c) { store_pack(mine_ + c, sums_[slot]); });
    __syncthreads();
    const float* const first = mine_ - threadIdx.y * n_;
    const int teams = static_cast<int>(blockDim.y), threads = static_cast<int>(blockDim.x) * teams;
    for (int c = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); c < size; c += threads) {
      float sum = 0;
      for (int team = 0; team < teams; ++team) sum += first[team * n_ + c];
      parts_[at + c] = sum;
    }
  }

 private:
  int n_;
  float *parts_, *mine_;
  Pack<float, pack> sums_[held > 0 ? held : 1] = {};
};

// ---- on the host

// Threads for stretches of n: no more than they hold packs for, several teams in a block where one is small.
template <int pack, int held>
dim3 teams_for(int n) {
  constexpr unsigned kThreads = 256;
  const auto packs = static_cast<unsigned>(std::max<int64_t>(1, ceil_div(n, pack)));
  const unsigned whole_warps = (packs - 1) / (std::max(held, 1) * kWarp) * kWarp + kWarp;
  const unsigned threads = packs <= kWarp ? std::bit_ceil(packs) : std::min<unsigned>(whole_warps, kMostThreads<held>);
  return dim3(threads, std::max(1u, kThreads / threads));
}

// Teams go through all stretches of a row.
template <int pack, int held>
Grid grid_for(const Stretches& s) {
  constexpr int64_t kMostBlocks = 132 * 16;
  const dim3 threads = teams_for<pack, held>(s.n);
  const int64_t blocks = std::min(kMostBlocks, ceil_div(s.rows * s.places, threads.y));
  return {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = threads, .shared = Team<pack, held>::bytes()};
}

// For kernels with `sums` ChannelSums. With a parameter a place the blocks keep to one place each. blocks.x parts are left.
template <int pack, int held>
Grid grid_for_sums(const Stretches& s, bool parameter_a_place, int sums) {
  const dim3 threads = teams_for<pack, held>(s.n);
  const int64_t apart = parameter_a_place ? s.places : 1, in_all = held == 1 ? 132 * kLeastBlocks<held> : kMostParts;
  const int64_t most = std::max<int64_t>(1, in_all / apart), blocks = std::min(most, ceil_div(s.rows * s.places / apart, threads.y));
  return {.blocks = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(apart)),
          .threads = threads,
          .shared = Team<pack, held>::bytes() + sums * shared_bytes<float>(ChannelSums<pack, held>::floats(threads.y, s.n))};
}

// What the blocks of such a grid leave for a parameter's gradient, which may be empty: parts [blocks.x][its elements].
class Parts {
 public:
  Parts(const Tensor& gradient, const Grid& grid) : gradient_(gradient) {
    if (gradient) parts_ = Tensor::empty({static_cast<int64_t>(grid.blocks.x), gradient.numel()}, DType::kFloat32, Cuda{});
  }
  float* data() const { return parts_ ? parts_.data<float>() : nullptr; }
  void add() const {
    if (parts_) add_parts(parts_, gradient_);
  }

 private:
  Tensor gradient_, parts_;
};

// The stretches of a statistic a stretch: statistics [.., places], of rows [.., places * n].
inline Stretches stretches(const Tensor& rows, const Tensor& statistics) {
  const int64_t places = statistics.dim(-1), width = rows.dim(-1);
  return {.rows = statistics.numel() / places,
          .width = static_cast<int>(width),
          .places = static_cast<int>(places),
          .n = static_cast<int>(width / places)};
}

// Calls body.operator()<pack, held>(). `bytes`: what a thread holds a channel, operands and sums; `wide_packs`: whether all operands can be
// read kPack elements at a time.
template <int kPack, int bytes, class Body>
void with_held_packs(const Stretches& s, bool wide_packs, const Body& body) {
  constexpr int kHeld = (bytes <= 6 ? 32 : 16) / kPack;  // half of the 128 registers that a thread has
  if (!wide_packs || s.n % kPack != 0 || s.width % kPack != 0)
    body.template operator()<1, 0>();
  else if (s.n <= kPack * kWarp)
    body.template operator()<kPack, 1>();
  else if (s.n <= kPack * kHeld * kMostThreads<kHeld>)
    body.template operator()<kPack, kHeld>();
  else
    body.template operator()<kPack, 0>();
}

}  // namespace ropewalk::cuda
