// Rounding into a tensor's element type, for vectorized loops.
#pragma once

#include "kernels/tensor/dtype.h"

namespace ropewalk {

// g++ keeps a bfloat16 made right in a vectorized loop as a private array, and the loop scalar; behind a call it vectorizes.
template <class T>
void store(T* to, Wide<T> value) {
  *to = static_cast<T>(value);
}

}  // namespace ropewalk
