// Collectives in place over memory that the ranks of one host share: each rank reads and writes the others' tensors, so that a sum moves
// each byte twice and copies none.
#pragma once

#include <atomic>

#include "parallel/comm/mpi/operation.h"

namespace ropewalk {

// One tensor a rank, of one shape, all visible to every rank of the group; and how far each rank is with the operations over it.
class SharedTensors {
 public:
  // Collective. Null on every rank where they do not share a host, or the host has too little shared memory.
  static std::shared_ptr<SharedTensors> allocate(const Communicator& group, const Shape& shape, DType dtype);

  ~SharedTensors();
  SharedTensors(const SharedTensors&) = delete;
  SharedTensors& operator=(const SharedTensors&) = delete;

  const Tensor& of(int rank) const { return tensors_[static_cast<size_t>(rank)]; }
  bool contain(const Tensor& x, int rank) const;  // in rank's tensor
  // `x` is a dense part of rank's tensor: the same part of every rank's, flat.
  Tensors everywhere(const Tensor& x, int rank) const;

  // Operations over these tensors are numbered from 0, in the order that all ranks start them.
  int64_t next_operation() { return operations_++; }
  struct alignas(64) Counts {
    std::atomic<int64_t> begun, finished;  // operations that the rank has come to; whose part it has done
  };
  Counts& counts(int rank) const { return counts_[rank]; }

 private:
  SharedTensors(const std::shared_ptr<void>& segment, int ranks, const Shape& shape, DType dtype);

  Tensors tensors_;
  Counts* counts_;
  int64_t operations_ = 0;
};

// Once every rank has come to it, each does its part; once every rank has done its part, it is done.
class SharedOperation : public Operation {
 public:
  SharedOperation(std::shared_ptr<Communicator> group, std::shared_ptr<SharedTensors> tensors, const Description& what,
                  std::function<void()> part);

  bool advance() override;

 private:
  using Count = std::atomic<int64_t> SharedTensors::Counts::*;
  bool all_have(Count count) const;
  std::vector<int> awaited() const override;

  std::shared_ptr<SharedTensors> tensors_;
  int64_t number_;
  std::function<void()> part_;
  bool finished_ = false;
};

}  // namespace ropewalk
