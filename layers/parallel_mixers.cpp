#include "layers/parallel_mixers.h"

#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {

void ParallelMixers::declare(Declarations& declarations, const std::string& name) {
  for (size_t i = 0; i < branches_.size(); ++i) branches_[i]->declare(declarations, fmt::format("{}.{}.{}", name, i, branches_[i]->kind()));
}

Var ParallelMixers::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  Vars branches;
  for (size_t i = 0; i < branches_.size(); ++i)
    branches.push_back(branches_[i]->forward(u_BSD, carry, ctx.at(ctx.site + static_cast<int>(i))));
  const double weight = combine_ == Combine::kMean ? 1.0 / static_cast<double>(branches.size()) : 1.0;
  return weighted_sum(branches, std::vector<double>(branches.size(), weight));
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

std::optional<Cost> ParallelMixers::cost(const TokenShape& shape) const {
  Cost all;
  for (const auto& branch : branches_) {
    const auto cost = branch->cost(shape);
    if (!cost) return std::nullopt;
    all += *cost;
  }
  return all;
}

}  // namespace ropewalk
