// Grouped-query causal attention with optional rotary positions and sliding window. It may publish its keys and values, or use an earlier
// layer's and project none of its own.
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
  Attention(const AttentionBlockOptions& options, const Widths& widths, const KeyValueSharing& sharing, const TensorParallel& tp);

  const char* kind() const override { return "attention"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Ports ports() const override;
  std::optional<Cost> cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  struct Projected {
    Var q_BSHP, k_BSKP, v_BSKP;
  };
  Projected project(const Var& x_BSD, Carry& carry, const Context& ctx) const;
  Var rotate(const Var& x_BSHP, const Context& ctx) const;

  AttentionBlockOptions options_;
  Widths widths_;
  KeyValueSharing sharing_;
  TensorParallel tp_;
  int64_t heads_, kv_heads_;  // on this rank
  Var qkv_, out_proj_;
};

}  // namespace ropewalk
