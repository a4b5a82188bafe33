#include "parallel/comm/mpi/piece.h"

#include <cstring>

#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

void copy_bytes(char* to, const char* from, int64_t bytes) {
  constexpr int64_t kGrain = 1 << 16;
  parallel_ranges(bytes, kGrain,
                  [&](int64_t begin, int64_t end) { std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin)); });
}

}  // namespace

// The inner dims that lie densely are a block; the outer ones must fold into a single stride.
Piece::Piece(const Tensor& view) : first_(static_cast<char*>(view.raw())), length_(static_cast<int64_t>(size_of(view.dtype()))) {
  const int64_t element = length_;
  for (int d = view.rank() - 1; d >= 0; --d) {
    const int64_t step = view.stride(d) * element;
    if (view.dim(d) == 1) continue;
    if (blocks_ == 1 && (step == length_ || view.numel() == 0)) {
      length_ *= view.dim(d);
      continue;
    }
    if (blocks_ == 1) stride_ = step;
    expect(step == stride_ * blocks_, "a piece of a tensor: expected a range along one dim, given a view {}", view.shape());
    blocks_ *= view.dim(d);
  }
}

void Piece::store(int64_t begin, int64_t end, char* to) const {
  for_each_run(begin, end, [to](const char* run, int64_t bytes, int64_t place) { copy_bytes(to + place, run, bytes); });
}

void Piece::load(int64_t begin, int64_t end, const char* from) const {
  for_each_run(begin, end, [from](char* run, int64_t bytes, int64_t place) { copy_bytes(run, from + place, bytes); });
}

}  // namespace ropewalk
