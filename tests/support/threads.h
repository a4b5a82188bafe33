// Results must not depend on the number of threads.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cstring>

#include "kernels/tensor/tensor.h"

namespace ropewalk::testing {

// Runs `function`, which returns Tensors, on one thread and on two, and expects the same bits.
template <class Function>
void expect_same_bits_on_one_and_two_threads(const Function& function) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensors one = function();
  omp_set_num_threads(2);
  const Tensors two = function();
  omp_set_num_threads(before);
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i < one.size(); ++i) {
    const Tensor a = one[i].packed(), b = two[i].packed();
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0) << "tensor " << i;
  }
}

}  // namespace ropewalk::testing
