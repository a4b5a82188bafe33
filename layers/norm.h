// The stack's norm, before a sub-layer or before the head: RMS or layer norm over the last dim, with parameters of its own.
#pragma once

#include "layers/options.h"
#include "parallel/parameter.h"

namespace ropewalk {

class Norm {
 public:
  explicit Norm(const NormOptions& options) : options_(options) {}

  // Names its weight `name`, and the bias of a layer norm `name`_bias.
  void declare(Declarations& declarations, const std::string& name, int64_t width);
  Var operator()(const Var& x, DType out) const;

 private:
  NormOptions options_;
  Var weight_, bias_;
};

}  // namespace ropewalk
