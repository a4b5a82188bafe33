// The Mamba-2 mixer (Dao & Gu 2024; state-spaces/mamba, modules/mamba2.py): in_proj to z, x, B, C, dt; causal convolution over x, B, C;
// SSD; gated RMS norm over groups of heads x head_dim / groups channels, or one of its variants; out_proj.
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

class Mamba2 : public SubLayer {
 public:
  Mamba2(const Mamba2Options& options, const BuildContext& build, const TensorParallel& tp);

  const char* kind() const override { return "mamba2"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Cost cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  Var gated(const Var& y_BSI, const Var& z_BSI) const;

  Mamba2Options options_;
  BuildContext build_;
  TensorParallel tp_;
  int64_t heads_, groups_;  // on this rank
  Group norm_group_;        // the ranks that share the gated norm's statistics
  Var in_proj_, conv_weight_, conv_bias_, a_log_, dt_bias_, d_skip_, norm_weight_, out_proj_;
};

}  // namespace ropewalk
