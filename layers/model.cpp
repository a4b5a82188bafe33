#include "layers/model.h"

#include <set>

#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/rms_norm/rms_norm.h"
#include "layers/build_stack.h"

namespace ropewalk {
namespace {
constexpr double kNormEps = 1e-5;
constexpr double kEmbeddingStd = 0.02;
}  // namespace

HybridModel::HybridModel(const ModelOptions& options, const ModelPlacement& placement)
    : options_(options), placement_(placement), sites_(build_stack(options, placement.tp, placement.recompute)) {
  int states = 0;
  for (const CallSite& site : sites_) {
    first_state_.push_back(states);
    states += static_cast<int>(site.core().make_states(0, 0, DType::kFloat32).size());
  }
  for (size_t site = 0; site <= sites_.size(); ++site) live_before_.push_back(find_live_before(site));
  const Group& group = placement.tp.group;
  first_row_ = local_range(options.vocabulary, ropewalk::Split{0, options.vocabulary}, group.rank(), group.size()).begin;
}

// As even as counts allow; the first stages take what is left over.
HybridModel::Range HybridModel::sites_of(int stage) const {
  const size_t n = sites_.size(), stages = static_cast<size_t>(placement_.stages), s = static_cast<size_t>(stage);
  const auto begin_of = [&](size_t k) { return k * (n / stages) + std::min(k, n % stages); };
  return {begin_of(s), begin_of(s + 1)};
}

void HybridModel::declare(Declarations& declarations) {
  const auto rows = [&](const std::string& name, Kind kind) {
    return ParameterSpec{.name = name,
                         .shape = {options_.vocabulary, options_.d_model},
                         .kind = kind,
                         .init = {Init::kNormal, kEmbeddingStd},
                         .split = ropewalk::Split{0, options_.vocabulary}};
  };
  for (int stage = 0; stage < placement_.stages; ++stage) {
    declarations.enter_stage(stage);
    if (stage == 0) embedding_ = declarations.declare(rows("embedding", Kind::kEmbedding));
    for (size_t i = sites_of(stage).begin; i < sites_of(stage).end; ++i) sites_[i].declare(declarations);
    if (stage + 1 < placement_.stages) continue;
    final_norm_ = declarations.declare({.name = "final_norm",
                                        .shape = {options_.d_model},
                                        .kind = Kind::kStack,
                                        .role = Role::kNorm,
                                        .init = {Init::kConstant, 1},
                                        .split = {},
                                        .owed_over_tensor = declarations.sequence_parallel()});
    head_ = declarations.declare(options_.tie_embeddings ? rows("embedding", Kind::kEmbedding) : rows("head", Kind::kHead));
  }
}

std::vector<Slot> HybridModel::find_live_before(size_t site) const {
  std::set<Slot> written = {kEmbeddingSlot}, live;
  for (size_t i = 0; i < site; ++i)
    for (const Slot& slot : sites_[i].ports().writes) written.insert(slot);
  for (size_t i = site; i < sites_.size(); ++i)
    for (const Slot& slot : sites_[i].ports().reads)
      if (written.contains(slot)) live.insert(slot);
  return {live.begin(), live.end()};
}

Ports HybridModel::ports() const {
  const Range mine = sites_of(placement_.stage);
  return {first() ? std::vector<Slot>{} : live_before_[mine.begin], last() ? std::vector<Slot>{} : live_before_[mine.end]};
}

Carry HybridModel::embed(Carry carry) const {
  const bool read = !live_before_[0].empty();
  carry.x = tp_leave(embedding(carry.x, embedding_, first_row_, placement_.residual), placement_.tp);
  if (read) carry.shared[kEmbeddingSlot] = {carry.x};
  return carry;
}

Carry HybridModel::run_sites(Carry carry, const Context& ctx) const {
  const Range mine = sites_of(placement_.stage);
  for (size_t i = mine.begin; i < mine.end; ++i) {
    carry = sites_[i].forward(std::move(carry), ctx.at(first_state_[i]));
    const std::vector<Slot>& live = live_before_[i + 1];
    std::erase_if(carry.shared, [&](const auto& entry) { return std::find(live.begin(), live.end(), entry.first) == live.end(); });
  }
  return carry;
}

Var HybridModel::final_norm(const Var& x, const Context& ctx) const { return rms_norm(x, final_norm_, kNormEps, ctx.dtype); }

Var HybridModel::head_loss(const Var& x, const Context& ctx) const {
  const Tensor& targets = ctx.batch.targets_BS;
  const HeadScores scores = head_scores(tp_enter(final_norm(x, ctx), placement_.tp), head_, targets, first_row_);
  return cross_entropy(tp_vocabulary_sum(scores, placement_.tp), targets);
}

Carry HybridModel::forward(Carry carry, const Context& ctx) const {
  if (first()) carry = embed(std::move(carry));
  carry = run_sites(std::move(carry), ctx);
  if (last()) carry.cross_entropy = head_loss(carry.x, ctx);
  return carry;
}

std::vector<State> HybridModel::make_states(int64_t batch, int64_t capacity, DType dtype) const {
  std::vector<State> states;
  for (const CallSite& site : sites_)
    for (State& state : site.core().make_states(batch, capacity, dtype)) states.push_back(std::move(state));
  return states;
}

Tensor HybridModel::next_logits(const Tensor& tokens_BS, const Context& ctx) const {
  const Carry carry = run_sites(embed({.x = Var(tokens_BS), .shared = {}, .losses = {}}), ctx);
  const Var last_BD = carry.x.data().select(1, carry.x.dim(1) - 1);
  return linear(final_norm(last_BD, ctx), head_).data().to(wide(ctx.dtype));
}

std::optional<Cost> HybridModel::cost(const TokenShape& shape) const {
  Cost all{.flops = 2 * shape.tokens() * static_cast<double>(options_.d_model * options_.vocabulary)};
  for (const CallSite& site : sites_) {
    const auto cost = site.core().cost(shape);
    if (!cost) return std::nullopt;
    all += *cost;
  }
  return all;
}

}  // namespace ropewalk
