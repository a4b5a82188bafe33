#include "layers/mlp.h"

#include "kernels/activation/activation.h"
#include "kernels/linear/linear.h"
#include "kernels/views/views.h"

namespace ropewalk {

void Mlp::declare(Declarations& declarations, const std::string& name) {
  const auto part = [&](const std::string& part_name, const Shape& shape, const Init& init, const Split& split) {
    return ParameterSpec{.name = name + "." + part_name, .shape = shape, .kind = Kind::kMlp, .init = init, .split = split};
  };
  const Init in = linear_init(widths_.input), out = linear_init(options_.hidden, widths_.output_scale);
  const Split by_column{0, options_.hidden};
  gate_up_ = declarations.declare(name + ".gate_up", {part("gate_up.gate", {options_.hidden, widths_.input}, in, by_column),
                                                      part("gate_up.up", {options_.hidden, widths_.input}, in, by_column)});
  down_ = declarations.declare(part("down", {widths_.output, options_.hidden}, out, {1, options_.hidden}));
}

Var Mlp::forward(const Var& u_BSD, Carry&, const Context&) const {
  const Var both = linear(tp_enter(u_BSD, tp_), gate_up_);
  const int64_t width = both.dim(-1) / 2;
  const Vars halves = split_last(both, {width, width});
  return tp_leave(linear(gated_activation(halves[0], halves[1], Activation::kSilu), down_), tp_);
}

std::optional<Cost> Mlp::cost(const TokenShape& shape) const {
  const auto weights = static_cast<double>(options_.hidden * (2 * widths_.input + widths_.output));
  return Cost{.flops = 2 * shape.tokens() * weights};
}

}  // namespace ropewalk
