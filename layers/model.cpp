#include "layers/model.h"

#include <set>

#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/top_logits/top_logits.h"
#include "kernels/weighted_sum/weighted_sum.h"
#include "layers/build_stack.h"

namespace ropewalk {

HybridModel::HybridModel(const ModelOptions& options, const ModelPlacement& placement)
    : options_(options),
      placement_(placement),
      sites_(build_stack(options, placement.tp, placement.ep, placement.recompute)),
      final_norm_(options.final_norm) {
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
  const auto rows = [&](const std::string& name, Kind kind, double std) {
    return ParameterSpec{.name = name,
                         .shape = {options_.vocabulary, options_.d_model},
                         .kind = kind,
                         .init = {Init::kNormal, std},
                         .split = ropewalk::Split{0, options_.vocabulary}};
  };
  const ParameterSpec embedding = rows("embedding", Kind::kEmbedding, options_.init.embedding_std);
  for (int stage = 0; stage < placement_.stages; ++stage) {
    declarations.enter_stage(stage);
    if (stage == 0) embedding_ = declarations.declare(embedding);
    for (size_t i = sites_of(stage).begin; i < sites_of(stage).end; ++i) sites_[i].declare(declarations);
    if (stage + 1 < placement_.stages) continue;
    final_norm_.declare(declarations, "final_norm", options_.d_model);
    head_ = declarations.declare(options_.tie_embeddings ? embedding : rows("head", Kind::kHead, options_.init.std));
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
  carry.x = scaled(tp_leave(embedding(carry.x, embedding_, first_row_, placement_.residual), placement_.tp), options_.scales.embed);
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

Var HybridModel::head_loss(const Var& x, const Context& ctx) const {
  const Tensor& targets = ctx.batch.targets_BS;
  const Var normed = tp_enter(final_norm_(x, ctx.dtype), placement_.tp);
  const HeadScores scores = head_scores(normed, head_, targets, first_row_, options_.scales.logits);
  return cross_entropy(tp_vocabulary_sum(scores, placement_.tp), targets);
}

int64_t HybridModel::count_right(const Var& x, const Context& ctx) const {
  const Var normed = tp_enter(final_norm_(x, ctx.dtype), placement_.tp);
  const Tensor targets = ctx.batch.targets_BS.packed();
  const Tensor best = Tensor::empty(targets.shape(), wide(normed.dtype())), row = empty_like(targets), right = zeros_like(best);
  launch(
      Cpu{},
      TopLogits{.top_logit = best, .top_row = row, .x = normed.data(), .weight = head_.data(), .target = targets, .first_row = first_row_});
  for (int64_t i = 0; i < targets.numel(); ++i) {
    const int64_t target = targets.data<int64_t>()[i];
    if (target != kIgnored && row.data<int64_t>()[i] == target) right.reshape({targets.numel()}).narrow(0, i, 1).fill(1);
  }
  return tp_count_right(best, right, placement_.tp);
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
  const Var logits = linear(final_norm_(last_BD, ctx.dtype), head_).data().to(wide(ctx.dtype));
  return scaled(logits, options_.scales.logits).data();
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
