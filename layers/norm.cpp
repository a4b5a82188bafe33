#include "layers/norm.h"

#include "kernels/layer_norm/layer_norm.h"
#include "kernels/rms_norm/rms_norm.h"

namespace ropewalk {

void Norm::declare(Declarations& declarations, const std::string& name, int64_t width) {
  const auto parameter = [&](const std::string& full_name, double initial) {
    return declarations.declare({.name = full_name,
                                 .shape = {width},
                                 .kind = Kind::kStack,
                                 .role = Role::kNorm,
                                 .init = {Init::kConstant, initial},
                                 .split = {},
                                 .owed_over_tensor = declarations.sequence_parallel()});
  };
  weight_ = parameter(name, options_.zero_centered ? 0 : 1);
  if (options_.type == NormOptions::kLayer) bias_ = parameter(name + "_bias", 0);
}

Var Norm::operator()(const Var& x, DType out) const {
  if (options_.type == NormOptions::kLayer) return layer_norm(x, weight_, bias_, options_.eps, out);
  return rms_norm(x, weight_, options_.eps, out, options_.zero_centered);
}

}  // namespace ropewalk
