#include "layers/model.h"

#include <set>

#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/top_logits/top_logits.h"
#include "kernels/weighted_sum/weighted_sum.h"
#include "layers/build_stack.h"

namespace ropewalk {
namespace {
constexpr const char* kEmbeddingPlace = "embedding";
constexpr const char* kHeadPlace = "head";
}  // namespace

Cost head_cost(const ModelOptions& options, const TokenShape& shape) {
  return {.flops = 2 * shape.tokens() * static_cast<double>(options.d_model * options.vocabulary)};
}

HybridModel::HybridModel(const ModelOptions& options, const ModelPlacement& placement)
    : options_(options),
      placement_(placement),
      sites_(build_stack(options, placement.tp, placement.ep, placement.recompute)),
      final_norm_(options.final_norm) {
  if (placement_.stage_begins.empty()) placement_.stage_begins = {0};
  int states = 0;
  for (const CallSite& site : sites_) {
    first_state_.push_back(states);
    states += static_cast<int>(site.core().make_states(0, 0, DType::kFloat32).size());
  }
  for (size_t site = 0; site <= sites_.size(); ++site) live_before_.push_back(find_live_before(site));
  const Group& group = placement.tp.group;
  first_row_ = local_range(options.vocabulary, ropewalk::Split{0, options.vocabulary}, group.rank(), group.size()).begin;
}

HybridModel::Range HybridModel::sites_of(int stage) const {
  const std::vector<size_t>& begins = placement_.stage_begins;
  const size_t s = static_cast<size_t>(stage);
  return {begins[s], s + 1 < begins.size() ? begins[s + 1] : sites_.size()};
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
  for (int stage = 0; stage < stages(); ++stage) {
    declarations.enter_stage(stage % placement_.pipeline_ranks);
    if (stage == 0) {
      embedding_unit_ = declarations.enter_unit(/*backward_reads=*/false);
      embedding_ = declarations.declare(embedding);
    }
    for (size_t i = sites_of(stage).begin; i < sites_of(stage).end; ++i) sites_[i].declare(declarations);
    if (stage + 1 < stages()) continue;
    head_unit_ = declarations.enter_unit();
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

Ports HybridModel::ports(int chunk) const {
  const Range range = sites_of(stage_of(chunk));
  return {range.begin == 0 ? std::vector<Slot>{} : live_before_[range.begin], live_before_[range.end]};
}

std::vector<std::string> HybridModel::places() const {
  std::vector<std::string> places = {kEmbeddingPlace};
  for (const CallSite& site : sites_) places.push_back(site.name());
  places.push_back(kHeadPlace);
  return places;
}

Carry HybridModel::embed(Carry carry, const Context& ctx) const {
  const ModelPlace place(kEmbeddingPlace);
  const bool read = !live_before_[0].empty();
  const auto rows = [this](const Vars& ids, Pass&) { return Vars{embedding(ids[0], embedding_, first_row_, placement_.residual)}; };
  const Var rows_BSD = Tape::segment(ctx.hooks(embedding_unit_), {carry.x}, rows, Recompute::kNone)[0];
  carry.x = scaled(tp_leave(rows_BSD, placement_.tp), options_.scales.embed);
  if (read) carry.shared[kEmbeddingSlot] = {carry.x};
  return carry;
}

Carry HybridModel::run_sites(const Range& range, Carry carry, const Context& ctx) const {
  for (size_t i = range.begin; i < range.end; ++i) {
    carry = sites_[i].forward(std::move(carry), ctx.at(first_state_[i]));
    const std::vector<Slot>& live = live_before_[i + 1];
    std::erase_if(carry.shared, [&](const auto& entry) { return std::find(live.begin(), live.end(), entry.first) == live.end(); });
  }
  return carry;
}

Var HybridModel::normed(const Var& x, const Context& ctx) const { return tp_enter(final_norm_(x, ctx.dtype), placement_.tp); }

Var HybridModel::head_loss(const Var& x, const Context& ctx) const {
  const ModelPlace place(kHeadPlace);
  const Tensor& targets = ctx.batch.targets_BS;
  const auto loss = [&](const Vars& in, Pass&) {
    const HeadScores scores = head_scores(normed(in[0], ctx), head_, targets, first_row_, options_.scales.logits);
    return Vars{cross_entropy(tp_vocabulary_sum(scores, placement_.tp), targets)};
  };
  return Tape::segment(ctx.hooks(head_unit_), {x}, loss, Recompute::kNone)[0];
}

int64_t HybridModel::count_right(const Var& x, const Context& ctx) const {
  int64_t count = 0;
  const auto body = [&](const Vars& in, Pass&) {
    count = count_right_here(normed(in[0], ctx), ctx);
    return Vars{};
  };
  Tape::segment(ctx.hooks(head_unit_), {x}, body, Recompute::kNone);
  return count;
}

int64_t HybridModel::count_right_here(const Var& normed, const Context& ctx) const {
  const Tensor targets = ctx.batch.targets_BS.packed();
  const Tensor best = Tensor::empty(targets.shape(), wide(normed.dtype()), targets.device()), row = empty_like(targets);
  launch(
      best.device(),
      TopLogits{.top_logit = best, .top_row = row, .x = normed.data(), .weight = head_.data(), .target = targets, .first_row = first_row_});
  const auto top = row.to_vector<int64_t>(), target = targets.to_vector<int64_t>();
  std::vector<double> hits;
  for (size_t i = 0; i < top.size(); ++i) hits.push_back(target[i] != kIgnored && top[i] == target[i]);
  const Tensor right = Tensor::from(targets.shape(), hits).to(best.dtype());
  return tp_count_right(best.to(Device()), right, placement_.tp);
}

Carry HybridModel::forward(int chunk, Carry carry, const Context& ctx) const {
  const int stage = stage_of(chunk);
  if (stage == 0) carry = embed(std::move(carry), ctx);
  carry = run_sites(sites_of(stage), std::move(carry), ctx);
  if (stage + 1 == stages()) carry.cross_entropy = head_loss(carry.x, ctx);
  return carry;
}

std::vector<State> HybridModel::make_states(int64_t batch, int64_t capacity, DType dtype) const {
  std::vector<State> states;
  for (const CallSite& site : sites_)
    for (State& state : site.core().make_states(batch, capacity, dtype)) states.push_back(std::move(state));
  return states;
}

Tensor HybridModel::next_logits(const Tensor& tokens_BS, const Context& ctx) const {
  const Carry carry = run_sites({0, sites_.size()}, embed({.x = Var(tokens_BS), .shared = {}, .losses = {}}, ctx), ctx);
  const Var last_BD = carry.x.data().select(1, carry.x.dim(1) - 1);
  const Var logits = linear(final_norm_(last_BD, ctx.dtype), head_).data().to(wide(ctx.dtype));
  return scaled(logits, options_.scales.logits).data();
}

Cost HybridModel::cost(const TokenShape& shape) const {
  Cost all = head_cost(options_, shape);
  for (const CallSite& site : sites_) all += site.core().cost(shape);
  return all;
}

}  // namespace ropewalk
