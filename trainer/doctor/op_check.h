// An op at one size, forward and backward, on a device, against the host in a wider type, or in fp32.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/autograd/tape.h"

namespace ropewalk {

// U(low, high) on the host, a pure function of the seed.
Tensor uniform(const Shape& shape, uint64_t seed, DType dtype, double low = -1, double high = 1);

struct Operand {
  Tensor value;  // on the host
  enum Kind { kActivation, kParameter, kConstant } kind = kActivation;
};

struct OpCheck {
  std::string name, size;
  std::function<std::vector<Operand>()> operands;  // made anew, the same each time; floating values in the dtype under test
  std::function<Vars(const Vars&)> op;
};

struct OpVerdict {
  double output_error = 0, gradient_error = 0;       // |given - host's| / |host's|, by norm, the largest
  double forward_seconds = 0, backward_seconds = 0;  // medians
  double flops = 0, bytes = 0;                       // of forward, at least
  bool passed = false;
};

// A GPU's results are compared with the host's in fp32, the host's own with fp64.
OpVerdict verdict_of(const OpCheck& check, Device device);

}  // namespace ropewalk
