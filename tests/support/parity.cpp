#include "tests/support/parity.h"

#include <cmath>
#include <limits>

#include "trainer/train_step.h"

namespace ropewalk::testing {
namespace {

// One sum over the ranks for all tensors: on more ranks than cores each sum takes a while.
Gathered gather(const RankModel& rank_model, Tensor (ParameterStore::*of)(const PlacedPart&) const) {
  const ParameterStore& store = rank_model.store();
  int64_t elements = 0;
  for (const auto& fused : rank_model.declarations().all())
    for (const ParameterSpec& spec : fused->parts) elements += spec.shape.numel();
  const Tensor flat = Tensor::zeros({elements}, store.wide_dtype());
  Gathered all;
  int64_t begin = 0;
  for (const auto& fused : rank_model.declarations().all()) {
    for (const ParameterSpec& spec : fused->parts) {
      all[spec.name] = flat.narrow(0, begin, spec.shape.numel()).reshape(spec.shape);
      begin += spec.shape.numel();
    }
  }
  for (const PlacedPart& part : store.parts()) {
    if (!part.counted || part.owned.length == 0) continue;
    Tensor place = all.at(part.spec.name);
    for (int d = 0; d < part.spec.shape.rank(); ++d) place = place.narrow(d, part.start[d], part.extent[d]);
    const Tensor local = Tensor::zeros({part.numel()}, store.wide_dtype());
    local.narrow(0, part.owned.begin, part.owned.length).copy_from((store.*of)(part));
    place.copy_from(local.reshape(part.extent));
  }
  rank_model.mesh().all().all_reduce_in_place(flat, "gather").wait();
  return all;
}

double norm(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares);
}

// Keeps the largest difference of those it is told; one that is no number is larger than any.
class Largest {
 public:
  void add(double distance, double scale, const std::string& of) {
    const double error = scale > 0 ? distance / scale : std::numeric_limits<double>::infinity();
    if (!(error <= largest_.error) || largest_.of.empty()) largest_ = {std::isnan(error) ? HUGE_VAL : error, of};
  }

  void add(const std::vector<double>& given, const std::vector<double>& expected, double floor, const std::string& of) {
    if (given.size() != expected.size()) return add(HUGE_VAL, 1, of + " (how many numbers)");
    std::vector<double> distance(given.size());
    for (size_t i = 0; i < given.size(); ++i) distance[i] = given[i] - expected[i];
    add(norm(distance), std::max(norm(expected), floor), of);
  }

  void add(const Gathered& given, const Gathered& expected, double floor, const std::string& what) {
    if (given.size() != expected.size()) add(HUGE_VAL, 1, what + " (how many tensors)");
    for (const auto& [name, tensor] : expected) {
      const auto found = given.find(name);
      const std::string of = fmt::format("{} of {}", what, name);
      if (found == given.end() || found->second.shape() != tensor.shape())
        add(HUGE_VAL, 1, of + " (its shape)");
      else
        add(found->second.to_vector<double>(), tensor.to_vector<double>(), floor, of);
    }
  }

  void add_each(const std::vector<double>& given, const std::vector<double>& expected, const std::string& what) {
    if (given.size() != expected.size()) return add(HUGE_VAL, 1, what + " (how many)");
    for (size_t i = 0; i < given.size(); ++i)
      if (given[i] != expected[i]) add(std::abs(given[i] - expected[i]), std::abs(expected[i]), fmt::format("{}, number {}", what, i));
  }

  const Difference& difference() const { return largest_; }

 private:
  Difference largest_;
};

}  // namespace

Outcome train_for_parity(const Options& options, const Group& group, const Degrees& degrees, const Rows& rows) {
  const RankModel model(options, group, degrees);
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), kParitySteps);
  TrainStep train_step(model, optimizer, {.clip = options.train.clip});
  const BatchPlan plan{options.train.batch, options.train.micro_batch, options.parallel.context_runs};
  Outcome outcome;
  for (int64_t step = 0; step < kParitySteps; ++step) {
    const StepReport report = train_step.run(step, make_batches([&](int64_t i) { return rows(i, options); }, step, plan, model.mesh()));
    outcome.losses.push_back(report.loss);
    outcome.grad_norms.push_back(report.grad_norm);
    if (report.moe) outcome.of_experts.insert(outcome.of_experts.end(), {report.moe->aux_loss, report.moe->load_max_over_mean});
    if (step == 0) outcome.gradients = gather(model, &ParameterStore::grad);
  }
  outcome.weights = gather(model, &ParameterStore::master);
  for (const PlacedBuffer& placed : model.store().buffers()) outcome.weights[placed.buffer->name] = placed.buffer->value;
  return outcome;
}

Options on_one_rank(Options options) {
  options.parallel = {};
  options.parallel.zero = 0;
  options.train.micro_batch = 1;
  options.train.recompute = {};
  return options;
}

Difference largest_difference(const Outcome& given, const Outcome& expected, double rounding) {
  Largest largest;
  largest.add_each(given.losses, expected.losses, "loss of a step");
  largest.add_each(given.grad_norms, expected.grad_norms, "gradient norm of a step");
  largest.add_each(given.of_experts, expected.of_experts, "auxiliary loss and load of the experts");
  largest.add(given.gradients, expected.gradients, rounding * expected.grad_norms.front(), "gradient");
  largest.add(given.weights, expected.weights, rounding, "weight after the last step");
  return largest.difference();
}

}  // namespace ropewalk::testing
