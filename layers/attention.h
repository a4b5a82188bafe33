// Grouped-query causal attention:
//   q, k, v, gate = qkv u + bias;  q, k <- rope(rms_norm(q, k) by head);  y = out_proj(attention(q, k, v) * sigmoid(gate)) + bias
// where norm, rope, window, gate and each bias are options. It may publish its keys and values, or use an earlier layer's and project none
// of its own.
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

// Where an attention's keys and values go to and come from besides itself.
struct KeyValueSharing {
  std::optional<Slot> publish, read;
};

class Attention : public SubLayer {
 public:
  Attention(const AttentionBlockOptions& options, const BuildContext& build, const KeyValueSharing& sharing, const TensorParallel& tp);

  const char* kind() const override { return "attention"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Ports ports() const override;
  Cost cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  struct Projected {
    Var q_BSHP, k_BSKP, v_BSKP;
    Var gate_BSI;  // where there is an output gate
  };
  // What q and k may each have of their own.
  struct Side {
    Var bias, norm_weight;
  };
  Projected project(const Var& x_BSD, Carry& carry, const Context& ctx) const;
  Var heads_of(const Var& x_BSI, const Side& side, const Context& ctx) const;
  double score_scale() const;

  AttentionBlockOptions options_;
  BuildContext build_;
  KeyValueSharing sharing_;
  TensorParallel tp_;
  int64_t heads_, kv_heads_;  // on this rank
  Var qkv_, v_bias_, out_proj_, out_bias_;
  Side q_, k_;
};

}  // namespace ropewalk
