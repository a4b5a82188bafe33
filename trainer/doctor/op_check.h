// An op at one size, forward and backward, on a device, against the host's fp32.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/autograd/tape.h"

namespace ropewalk {

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
  double output_error = 0, gradient_error = 0;       // |given - host's fp32| / |host's fp32|, by norm, the largest
  double forward_seconds = 0, backward_seconds = 0;  // medians
  double flops = 0, bytes = 0;                       // of forward, at least
  bool passed = false;
};

// On the host the device's results are compared with fp32 where the operands are narrower, else with themselves on one thread.
OpVerdict verdict_of(const OpCheck& check, Device device);

}  // namespace ropewalk
