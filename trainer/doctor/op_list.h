// Every op that a model is made of, at sizes of a model that fills a device, or at small ones.
#pragma once

#include "trainer/doctor/op_check.h"

namespace ropewalk {

struct CheckSize {
  int64_t tokens, width;  // of a row and of the residual stream; multiples of 256
};
std::vector<OpCheck> op_list(const CheckSize& size, DType dtype);

}  // namespace ropewalk
