// A mixture of experts: each token goes through the k feed-forwards that a router chooses for it, y = sum_j w_j expert_j(u), and through
// one shared by all, where there is one: + shared(u), or + sigmoid(shared_gate . u) shared(u). No capacity: nothing is dropped.
//
// Tensor ranks have all experts each. With sequence parallelism each sends its own tokens through them; without, all do the same. The
// shared one is cut over them as any feed-forward is.
//
// With Sinkhorn's assignment (router sigmoid_top1) the expert of a token in training depends on its whole sequence, later tokens too. So
// evaluation and decoding take the greatest logit instead, as BlackMamba does: a validation loss must not know the future.
#pragma once

#include <optional>

#include "layers/mlp.h"
#include "layers/options.h"
#include "layers/sub_layer.h"

namespace ropewalk {

class Moe : public SubLayer {
 public:
  Moe(const MoeOptions& options, const BuildContext& build, const TensorParallel& tp);

  const char* kind() const override { return "moe"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Cost cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t, int64_t, DType) const override { return {}; }

 private:
  Tensor assigned(const Var& logits_BSE, const Context& ctx) const;
  void account(const Var& logits_BSE, const Tensor& expert_BSk, Carry& carry, const Context& ctx) const;
  Var mix(const Var& u_BSD, const Routing& routing) const;

  MoeOptions options_;
  BuildContext build_;
  std::optional<Mlp> shared_;
  Var router_, router_bias_, up_, down_, shared_gate_;  // `up` with the gate before it where there is one
  std::shared_ptr<Tally> load_;
  std::shared_ptr<Buffer> balance_bias_;
};

}  // namespace ropewalk
