// Working memory that each thread has for itself, allocated once a launch.
#pragma once

#include <omp.h>

#include <deque>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// A stretch of T for each thread, on cache lines of its own.
template <class T>
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t size)
      : size_((size + kLine - 1) / kLine * kLine),
        all_(Tensor::empty({omp_get_max_threads(), size_}, dtype_of<T>())),
        data_(all_.data<T>()) {}
  T* mine() const { return data_ + omp_get_thread_num() * size_; }

 private:
  static constexpr int64_t kLine = 64 / sizeof(T);

  int64_t size_;
  Tensor all_;
  T* data_;
};

// A room for each thread, with all that it works in. All are made beforehand, so that what they take of the allocator does not depend on
// how the threads meet.
template <class Room>
class ThreadRooms {
 public:
  template <class Make>
  explicit ThreadRooms(const Make& make) {
    for (int thread = 0; thread < omp_get_max_threads(); ++thread) rooms_.push_back(make());
  }
  Room& mine() { return rooms_[static_cast<size_t>(omp_get_thread_num())]; }

 private:
  std::deque<Room> rooms_;
};

}  // namespace ropewalk
