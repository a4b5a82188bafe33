#include "layers/mlp.h"

#include "kernels/linear/linear.h"
#include "kernels/views/views.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {

void Mlp::declare(Declarations& declarations, const std::string& name) {
  const auto part = [&](const std::string& part_name, const Shape& shape, const Init& init, const Split& split) {
    return ParameterSpec{.name = name + "." + part_name, .shape = shape, .kind = owner_, .init = init, .split = split};
  };
  const Split by_column{0, options_.hidden};
  const auto up = [&](const std::string& part_name) {
    return part(part_name, {options_.hidden, build_.input}, build_.linear_init(build_.input), by_column);
  };
  const auto up_bias = [&](const std::string& part_name) { return bias_spec(name + "." + part_name, options_.hidden, owner_, by_column); };
  up_ = options_.gated ? declarations.declare(name + ".gate_up", {up("gate_up.gate"), up("gate_up.up")}) : declarations.declare(up("up"));
  down_ = declarations.declare(part("down", {build_.output, options_.hidden}, build_.output_init(options_.hidden), {1, options_.hidden}));
  if (!options_.bias) return;
  up_bias_ = options_.gated ? declarations.declare(name + ".gate_up_bias", {up_bias("gate_up_bias.gate"), up_bias("gate_up_bias.up")})
                            : declarations.declare(up_bias("up_bias"));
  down_bias_ = declarations.declare(bias_spec(name + ".down_bias", build_.output, owner_, {}, declarations.sequence_parallel()));
}

Var Mlp::activated(const Var& up_BSF) const {
  if (!options_.gated) return activation(up_BSF, options_.act);
  const int64_t width = up_BSF.dim(-1) / 2;
  const Vars halves = split_last(up_BSF, {width, width});
  return gated_activation(halves[0], halves[1], options_.act, options_.multipliers ? (*options_.multipliers)[0] : 1);
}

Var Mlp::forward(const Var& u_BSD, Carry&, const Context&) const {
  const Var up_BSF = with_bias(linear(tp_enter(u_BSD, tp_), up_), up_bias_);
  const Var y_BSD = with_bias(tp_leave(linear(activated(up_BSF), down_), tp_), down_bias_);
  return scaled(y_BSD, options_.multipliers ? (*options_.multipliers)[1] : 1);
}

Cost Mlp::cost(const TokenShape& shape) const {
  const auto weights = static_cast<double>(options_.hidden * ((options_.gated ? 2 : 1) * build_.input + build_.output));
  return Cost{.flops = 2 * shape.tokens() * weights};
}

}  // namespace ropewalk
