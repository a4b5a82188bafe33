// The gated feed-forward: down(silu(gate(u)) * up(u)) (SwiGLU, Shazeer 2020).
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

class Mlp : public SubLayer {
 public:
  Mlp(const MlpOptions& options, const Widths& widths, const TensorParallel& tp) : options_(options), widths_(widths), tp_(tp) {}

  const char* kind() const override { return "mlp"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  std::optional<Cost> cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t, int64_t, DType) const override { return {}; }

 private:
  MlpOptions options_;
  Widths widths_;
  TensorParallel tp_;
  Var gate_up_, down_;
};

}  // namespace ropewalk
