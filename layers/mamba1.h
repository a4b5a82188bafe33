// The Mamba-1 mixer (Gu & Dao 2023; state-spaces/mamba, modules/mamba_simple.py): in_proj to x and the gate z; causal convolution over x;
// x_proj from x to a low-rank dt, B and C, which dtbc_norm passes through RMS norms (Jamba); dt_proj; selective scan; y silu(z); out_proj.
//
// With several heads (Zamba) the inner channels are cut into as many parts, each with an x_proj and a dt_proj of its own.
//
// Tensor ranks cut the channels. Where a head's lie on several, x_proj of each sees a part of them, and dt, B and C are summed.
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

class Mamba1 : public SubLayer {
 public:
  Mamba1(const Mamba1Options& options, const BuildContext& build, const TensorParallel& tp);

  const char* kind() const override { return "mamba1"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  std::optional<Cost> cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  struct Head {
    Var x_proj, dt_norm, b_norm, c_norm, dt_proj;
  };
  // What the scan takes from each token besides x: its step, and how it writes to the state and reads from it.
  struct Selection {
    Var dt_BSI, b_BSHN, c_BSHN;
  };
  Head declare_head(Declarations& declarations, const std::string& name, int64_t head) const;
  Selection select(const Var& x_BSI) const;
  Selection select(const Var& x_BSP, const Head& head) const;
  Var normed(const Var& x, const Var& weight) const;

  Mamba1Options options_;
  BuildContext build_;
  TensorParallel tp_;
  Group head_group_;            // the tensor ranks that share a head
  int64_t inner_, inner_here_;  // channels, and those on this rank
  int64_t first_head_, heads_;  // on this rank
  std::vector<Head> head_;      // of all
  Var in_proj_, conv_weight_, conv_bias_, a_log_, dt_bias_, d_skip_, out_proj_;
};

}  // namespace ropewalk
