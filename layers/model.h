// A hybrid language model: embedding, the stack of call sites, final norm and head. Built from ModelOptions for the whole model on every
// rank (nothing is allocated yet), of which a rank runs its stage.
#pragma once

#include "layers/call_site.h"
#include "layers/options.h"
#include "layers/recompute_policy.h"
#include "parallel/expert_parallel.h"
#include "parallel/mesh.h"
#include "parallel/pipeline.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

struct ModelPlacement {
  TensorParallel tp;
  ExpertParallel ep{};
  int stage = 0, stages = 1;
  RecomputePolicy recompute{};
  DType residual = DType::kFloat32;  // of the residual stream
};

class HybridModel : public Stage {
 public:
  HybridModel(const ModelOptions& options, const ModelPlacement& placement);

  // Names every parameter of the whole model, stage by stage. Called once, before a ParameterStore places them.
  void declare(Declarations& declarations);

  Carry forward(Carry carry, const Context& ctx) const override;
  Ports ports() const override;

  // Of the whole model, all stages.
  std::optional<Cost> cost(const TokenShape& shape) const;
  // How many scored targets of the microbatch have the largest logit, given the stream that leaves the last stage (`carry.x`).
  // Collective over the tensor ranks; the same on each.
  int64_t count_right(const Var& x, const Context& ctx) const;

  // For decoding, on one stage that holds all: the states of all call sites, and the logits of each row's last token [B, V] wide.
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const;
  Tensor next_logits(const Tensor& tokens_BS, const Context& ctx) const;

 private:
  struct Range {
    size_t begin, end;
  };
  Range sites_of(int stage) const;
  std::vector<Slot> find_live_before(size_t site) const;
  bool first() const { return placement_.stage == 0; }
  bool last() const { return placement_.stage + 1 == placement_.stages; }
  Carry embed(Carry carry) const;
  Carry run_sites(Carry carry, const Context& ctx) const;
  Var head_loss(const Var& x, const Context& ctx) const;

  ModelOptions options_;
  ModelPlacement placement_;
  std::vector<CallSite> sites_;
  std::vector<int> first_state_;                // by call site
  std::vector<std::vector<Slot>> live_before_;  // by call site and behind the last: slots written before it that it or a later one reads
  int64_t first_row_;                           // of the vocabulary on this rank
  Norm final_norm_;
  Var embedding_, head_;
};

}  // namespace ropewalk
