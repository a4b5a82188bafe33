// Sums in place over memory that the ranks of one host share: each rank adds its slice of every rank's tensor and writes the sum back to
// all of them, so that a sum moves each byte twice and copies none.
#pragma once

#include <atomic>

#include "parallel/comm/mpi/operation.h"

namespace ropewalk {

// One tensor a rank, of one shape, all visible to every rank of the group; and how far each rank is with the sums over it.
class SharedTensors {
 public:
  // Collective. Null on every rank where they do not share a host, or the host has too little shared memory.
  static std::shared_ptr<SharedTensors> allocate(const Communicator& group, const Shape& shape, DType dtype);

  ~SharedTensors();
  SharedTensors(const SharedTensors&) = delete;
  SharedTensors& operator=(const SharedTensors&) = delete;

  const Tensor& of(int rank) const { return tensors_[static_cast<size_t>(rank)]; }
  // Where in rank's tensor x begins, in elements; negative if x is no part of it.
  int64_t offset_of(const Tensor& x, int rank) const;

  // Sums over these tensors are numbered from 0, in the order that all ranks start them.
  int64_t next_sum() { return sums_++; }
  struct alignas(64) Counts {
    std::atomic<int64_t> begun, added;  // sums that the rank has come to; whose slice it has added
  };
  Counts& counts(int rank) const { return counts_[rank]; }

 private:
  SharedTensors(const std::shared_ptr<void>& segment, int ranks, const Shape& shape, DType dtype);

  Tensors tensors_;
  Counts* counts_;
  int64_t sums_ = 0;
};

class SharedSum : public Operation {
 public:
  // `x` is a part of this rank's tensor; every rank names the same part of its own.
  SharedSum(std::shared_ptr<Communicator> group, std::shared_ptr<SharedTensors> tensors, const Tensor& x, const Description& what);

  bool advance() override;

 private:
  using Count = std::atomic<int64_t> SharedTensors::Counts::*;
  bool all_have(Count count) const;
  void add_own_slice() const;
  std::vector<int> awaited() const override;

  std::shared_ptr<SharedTensors> tensors_;
  int64_t number_, begin_, length_;  // the part, in elements
  bool added_ = false;
};

}  // namespace ropewalk
