#include "layers/parallel_mixers.h"

#include "kernels/gated_sum/gated_sum.h"
#include "kernels/linear/linear.h"
#include "kernels/views/views.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {

ParallelMixers::ParallelMixers(const ParallelOptions& options, const BuildContext& build, std::vector<std::unique_ptr<SubLayer>> branches)
    : options_(options), build_(build), branches_(std::move(branches)) {
  const auto ones = [&](std::vector<double>& scales) {
    if (scales.empty()) scales.assign(branches_.size(), 1);
  };
  ones(options_.in_scales);
  ones(options_.out_scales);
}

void ParallelMixers::declare(Declarations& declarations, const std::string& name) {
  const int64_t count = std::ssize(branches_), width = build_.output;
  const auto weight = [&](const std::string& part, const Shape& shape, const Init& init) {
    return declarations.declare({.name = name + "." + part,
                                 .shape = shape,
                                 .kind = Kind::kStack,
                                 .init = init,
                                 .split = {},
                                 .owed_over_tensor = declarations.sequence_parallel()});
  };
  for (int64_t i = 0; i < count; ++i) branches_[i]->declare(declarations, fmt::format("{}.{}.{}", name, i, branches_[i]->kind()));
  if (options_.combine == Combine::kNormedMean) {
    norms_.assign(branches_.size(), Norm({.type = NormOptions::kRms, .eps = build_.norm.eps, .zero_centered = build_.norm.zero_centered}));
    for (int64_t i = 0; i < count; ++i) norms_[i].declare(declarations, fmt::format("{}.{}.output_norm", name, i), width);
  }
  if (options_.combine == Combine::kGated) {
    const int64_t logits = (count - 1) * width;
    gate_ = weight("gate", {logits, build_.input}, build_.linear_init(build_.input));
    gate_bias_ = declarations.declare(bias_spec(name + ".gate_bias", logits, Kind::kStack, {}, declarations.sequence_parallel()));
  }
  if (options_.combine == Combine::kConcatProj)
    concat_proj_ = weight("concat_proj", {width, count * width}, build_.output_init(count * width));
}

Var ParallelMixers::mean_of_normed(const Vars& y_BSD) const {
  Vars normed;
  for (size_t i = 0; i < y_BSD.size(); ++i) normed.push_back(norms_[i](y_BSD[i], y_BSD[i].dtype()));
  return weighted_sum(normed, std::vector<double>(normed.size(), 1.0 / static_cast<double>(normed.size())));
}

Var ParallelMixers::combine(const Var& u_BSD, const Vars& y_BSD) const {
  std::vector<double> weights = options_.out_scales;
  switch (options_.combine) {
    case Combine::kSum: return weighted_sum(y_BSD, weights);
    case Combine::kMean:
      for (double& weight : weights) weight /= static_cast<double>(weights.size());
      return weighted_sum(y_BSD, weights);
    case Combine::kNormedMean: return mean_of_normed(y_BSD);
    case Combine::kGated: return gated_sum(add_bias(linear(u_BSD, gate_), gate_bias_), y_BSD);
    case Combine::kConcatProj: return linear(concat_last(y_BSD), concat_proj_);
  }
  return {};
}

Var ParallelMixers::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  Vars y_BSD;
  for (size_t i = 0; i < branches_.size(); ++i)
    y_BSD.push_back(branches_[i]->forward(scaled(u_BSD, options_.in_scales[i]), carry, ctx.at(ctx.site + static_cast<int>(i))));
  return combine(u_BSD, y_BSD);
}

Ports ParallelMixers::ports() const {
  Ports all;
  for (const auto& branch : branches_) {
    const Ports ports = branch->ports();
    all.reads.insert(all.reads.end(), ports.reads.begin(), ports.reads.end());
    all.writes.insert(all.writes.end(), ports.writes.begin(), ports.writes.end());
  }
  return all;
}

std::vector<State> ParallelMixers::make_states(int64_t batch, int64_t capacity, DType dtype) const {
  std::vector<State> states;
  for (const auto& branch : branches_)
    for (State& state : branch->make_states(batch, capacity, dtype)) states.push_back(std::move(state));
  return states;
}

Cost ParallelMixers::cost(const TokenShape& shape) const {
  Cost all;
  for (const auto& branch : branches_) all += branch->cost(shape);
  const auto count = static_cast<double>(branches_.size()), width = static_cast<double>(build_.output);
  if (options_.combine == Combine::kGated) all.flops += 2 * shape.tokens() * (count - 1) * width * static_cast<double>(build_.input);
  if (options_.combine == Combine::kConcatProj) all.flops += 2 * shape.tokens() * count * width * width;
  return all;
}

}  // namespace ropewalk
