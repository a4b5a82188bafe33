#include "trainer/optimizer.h"

#include <algorithm>

#include "kernels/adamw/adamw.h"
#include "kernels/flat/flat.h"
#include "kernels/sgd/sgd.h"
#include "trainer/schedule.h"

namespace ropewalk {
namespace {

template <class T>
bool allows(const std::vector<T>& allowed, T value) {
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

bool matches(const OptimizerGroup& group, const ParameterSpec& spec) {
  return allows(group.kinds, spec.kind) && allows(group.roles, spec.role);
}

}  // namespace

ParameterGroups::ParameterGroups(const OptimizerOptions& options, const Declarations& declarations) : groups_(options.groups) {
  groups_.push_back({.name = "default", .kinds = {}, .roles = {}, .values = options.values});
  std::vector<bool> used(groups_.size());
  for (const auto& fused : declarations.all())
    for (const ParameterSpec& spec : fused->parts) used[group_of(spec)] = true;
  for (size_t i = 0; i + 1 < groups_.size(); ++i)
    if (!used[i])
      throw Error(2,
                  fmt::format("optimizer.groups: group {} matches no parameter that an earlier group left; `ropewalk params` shows all",
                              groups_[i].name),
                  Error::Reach::kEveryRank);
}

size_t ParameterGroups::group_of(const ParameterSpec& spec) const {
  const auto found = std::find_if(groups_.begin(), groups_.end(), [&](const OptimizerGroup& group) { return matches(group, spec); });
  return static_cast<size_t>(found - groups_.begin());
}

double ParameterGroups::weight_decay(const ParameterSpec& spec) const {
  const OptimizerValues& values = groups_[group_of(spec)].values;
  return values.decay_all || decays_by_default(spec.role) ? values.weight_decay : 0;
}

Optimizer::Optimizer(const OptimizerOptions& options, const Declarations& declarations, const ParameterStore& store, int64_t steps)
    : options_(options), groups_(options, declarations), store_(store), steps_(steps) {
  if (options.type == OptimizerOptions::kAdamW)
    for (const char* moment : {"m", "v"}) state_[moment] = Tensor::zeros({store.owned()}, store.wide_dtype(), store.device());
}

double Optimizer::lr(size_t group, int64_t step) const {
  const OptimizerValues& values = groups_.groups()[group].values;
  return values.lr * schedule_factor(values.schedule, step, steps_);
}

Device Optimizer::device() const { return store_.buckets().empty() ? Device() : store_.buckets().front().values.device(); }

std::map<Kind, double> Optimizer::squared_grad_norms(const Mesh& mesh) const {
  const Phase phase("gradient norms");
  const Tensor by_kind = Tensor::zeros({std::ssize(kKinds)}, DType::kFloat64, device());
  for (const PlacedPart& part : store_.parts()) {
    if (!part.counted) continue;
    const Tensor grad = store_.grad(part);
    launch(grad.device(), SumOfSquares{.x = grad, .sum = by_kind.narrow(0, static_cast<int>(part.spec.kind), 1)});
  }
  const Tensor total = mesh.all().all_reduce(by_kind.to(Cpu{}), "grad_norm");
  std::map<Kind, double> squares;
  for (const Kind kind : kKinds) squares[kind] = total.data<double>()[static_cast<int>(kind)];
  return squares;
}

void Optimizer::step(int64_t step, double grad_scale) {
  const Phase phase("optimizer");
  ++updates_;
  last_update_.clear();
  const Tensor squares = Tensor::zeros({std::ssize(kKinds), 2}, DType::kFloat64, device());
  for (const PlacedPart& part : store_.parts()) {
    if (part.owned.length == 0) continue;
    if (part.counted) last_update_[part.spec.kind] = {};
    update(part, lr(groups_.group_of(part.spec), step), grad_scale,
           part.counted ? squares.select(0, static_cast<int>(part.spec.kind)) : Tensor());
  }
  store_.gather();
  const std::vector<double> sums = squares.to_vector<double>();
  for (auto& [kind, of_kind] : last_update_) {
    const size_t at = 2 * static_cast<size_t>(kind);
    of_kind = {.update = sums[at], .weight = sums[at + 1]};
  }
}

void Optimizer::update(const PlacedPart& part, double lr, double grad_scale, const Tensor& squares) const {
  const OptimizerValues& values = groups_.groups()[groups_.group_of(part.spec)].values;
  const Tensor master = store_.master(part), working = store_.working(part), grad = store_.grad(part);
  const double weight_decay = groups_.weight_decay(part.spec);
  if (options_.type == OptimizerOptions::kSgd) {
    launch(master.device(), SgdStep{.master = master,
                                    .working = working,
                                    .grad = grad,
                                    .lr = lr,
                                    .weight_decay = weight_decay,
                                    .grad_scale = grad_scale,
                                    .squares = squares});
    return;
  }
  const Tensor m = ParameterStore::span(state_.at("m"), part), v = ParameterStore::span(state_.at("v"), part);
  launch(master.device(), AdamWStep{.master = master,
                                    .working = working,
                                    .m = m,
                                    .v = v,
                                    .grad = grad,
                                    .lr = lr,
                                    .beta1 = values.beta1,
                                    .beta2 = values.beta2,
                                    .eps = values.eps,
                                    .weight_decay = weight_decay,
                                    .grad_scale = grad_scale,
                                    .t = updates_,
                                    .squares = squares});
}

}  // namespace ropewalk
