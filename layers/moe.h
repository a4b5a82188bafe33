// A mixture of experts: each token goes through the k feed-forwards that a router chooses for it, y = sum_j w_j expert_j(u), and through
// one shared by all, where there is one: + shared(u), or + sigmoid(shared_gate . u) shared(u). No capacity: nothing is dropped.
//
// Expert ranks share the experts out. Tensor ranks have each of those whole, and with sequence parallelism send their own tokens through
// them (without, all do the same); or, with expert_tensor, cut their hidden layers. The shared expert is cut as any feed-forward is.
//
// With Sinkhorn's assignment (router sigmoid_top1) the expert of a token in training depends on its whole sequence, later tokens too. So
// evaluation and decoding take the greatest logit instead, as BlackMamba does: a validation loss must not know the future.
#pragma once

#include <optional>

#include "layers/mlp.h"
#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/expert_parallel.h"

namespace ropewalk {

class Moe : public SubLayer {
 public:
  Moe(const MoeOptions& options, const BuildContext& build, const TensorParallel& tp, const ExpertParallel& ep);

  const char* kind() const override { return "moe"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  std::optional<Cost> cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t, int64_t, DType) const override { return {}; }

 private:
  Tensor assigned(const Var& logits_BSE, const Context& ctx) const;
  void account(const Var& logits_BSE, const Tensor& expert_BSk, Carry& carry, const Context& ctx) const;
  void declare_experts(Declarations& declarations, const std::string& name);
  Var mix(const Var& u_BSD, const Routing& routing, const Context& ctx) const;
  Var through_experts(const Var& u_BSD, const Tensor& expert_BSk, const Var& weight_BSk, const Context& ctx) const;

  MoeOptions options_;
  BuildContext build_;
  TensorParallel tp_;
  ExpertParallel ep_;
  std::optional<Mlp> shared_;
  Var router_, router_bias_, up_, down_, shared_gate_;  // `up` with the gate before it where there is one
  std::shared_ptr<Tally> load_;
  std::shared_ptr<Buffer> balance_bias_;
};

}  // namespace ropewalk
