#include "parallel/comm/mpi/shared_memory.h"

#include <algorithm>

#include "kernels/tensor/allocator.h"
#include "parallel/comm/mpi/shared_segment.h"

namespace ropewalk {
namespace {

constexpr int64_t kPage = 4096;
int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
int64_t counts_bytes(int ranks) { return whole_pages(ranks * static_cast<int64_t>(sizeof(SharedTensors::Counts))); }
int64_t tensor_bytes(const Shape& shape, DType dtype) { return whole_pages(shape.numel() * static_cast<int64_t>(size_of(dtype))); }

}  // namespace

std::shared_ptr<SharedTensors> SharedTensors::allocate(const Communicator& group, const Shape& shape, DType dtype) {
  if (const auto here = members_on_this_host(group); !here || here->size < group.size) return nullptr;
  const std::shared_ptr<void> segment = map_segment(group, counts_bytes(group.size) + group.size * tensor_bytes(shape, dtype));
  return segment ? std::shared_ptr<SharedTensors>(new SharedTensors(segment, group.size, shape, dtype)) : nullptr;
}

// A fresh segment is all zeros: nothing has begun.
SharedTensors::SharedTensors(const std::shared_ptr<void>& segment, int ranks, const Shape& shape, DType dtype)
    : counts_(static_cast<Counts*>(segment.get())) {
  char* const first = static_cast<char*>(segment.get()) + counts_bytes(ranks);
  for (int rank = 0; rank < ranks; ++rank)
    tensors_.push_back(Tensor::over(segment, first + rank * tensor_bytes(shape, dtype), shape, dtype));
  Allocator::host().count(tensors_[0].bytes());
}

SharedTensors::~SharedTensors() { Allocator::host().count(-tensors_[0].bytes()); }

bool SharedTensors::contain(const Tensor& x, int rank) const {
  const auto *const begin = static_cast<const char*>(of(rank).raw()), *const part = static_cast<const char*>(x.raw());
  return part >= begin && part < begin + of(rank).bytes();
}

Tensors SharedTensors::everywhere(const Tensor& x, int rank) const {
  const int64_t bytes = static_cast<const char*>(x.raw()) - static_cast<const char*>(of(rank).raw());
  const int64_t begin = bytes / static_cast<int64_t>(size_of(x.dtype()));
  Tensors parts;
  for (const Tensor& tensor : tensors_) parts.push_back(tensor.reshape({tensor.numel()}).narrow(0, begin, x.numel()));
  return parts;
}

SharedOperation::SharedOperation(std::shared_ptr<Communicator> group, std::shared_ptr<SharedTensors> tensors, const Description& what,
                                 std::function<void()> part)
    : Operation(std::move(group), what), tensors_(std::move(tensors)), number_(tensors_->next_operation()), part_(std::move(part)) {
  tensors_->counts(group_->rank).begun.store(number_ + 1, std::memory_order_release);
}

bool SharedOperation::all_have(Count count) const {
  for (int rank = 0; rank < group_->size; ++rank)
    if ((tensors_->counts(rank).*count).load(std::memory_order_acquire) <= number_) return false;
  return true;
}

// A rank's counts only grow: were an operation that has just become possible done before the one started before it, the count would say
// that both are.
bool SharedOperation::advance() {
  if (!finished_) {
    std::atomic<int64_t>& finished = tensors_->counts(group_->rank).finished;
    if (finished.load(std::memory_order_relaxed) != number_ || !all_have(&SharedTensors::Counts::begun)) return false;
    part_();
    finished_ = true;
    finished.store(number_ + 1, std::memory_order_release);
  }
  done_ = all_have(&SharedTensors::Counts::finished);
  return done_;
}

std::vector<int> SharedOperation::awaited() const {
  const Count count = finished_ ? &SharedTensors::Counts::finished : &SharedTensors::Counts::begun;
  std::vector<int> peers;
  for (int rank = 0; rank < group_->size; ++rank)
    if ((tensors_->counts(rank).*count).load(std::memory_order_acquire) <= number_) peers.push_back(rank);
  return peers;
}

}  // namespace ropewalk
