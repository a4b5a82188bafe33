// Working memory of one task, from the host's allocator.
#pragma once

#include <algorithm>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

template <class W>
struct Scratch {
  explicit Scratch(int64_t size) : count(size), storage(Tensor::empty({size}, dtype_of<W>())), data(storage.data<W>()) {}
  operator W*() const { return data; }
  void zero() const { std::fill_n(data, count, W(0)); }

  int64_t count;
  Tensor storage;
  W* data;
};

}  // namespace ropewalk
