#include "trainer/train_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ropewalk {
namespace {

// Of the whole batch: every data rank takes as many.
double sequences_of(const std::vector<Microbatch>& batches, const Mesh& mesh) {
  int64_t rows = 0;
  for (const Microbatch& batch : batches) rows += batch.layout.rows;
  return static_cast<double>(rows * mesh.data().size());
}

double max_over_mean(const Tensor& counts) {
  const auto loads = counts.to_vector<double>();
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());
  return *std::max_element(loads.begin(), loads.end()) / mean;
}

}  // namespace

double sum_over_tokens(const Mesh& mesh, double counted, const char* label) {
  const bool last_stage = mesh.coordinate(Axis::kPipeline) + 1 == mesh.size(Axis::kPipeline);
  return mesh.all().sum(last_stage && mesh.coordinate(Axis::kTensor) == 0 ? counted : 0, label);
}

TrainStep::TrainStep(const RankModel& model, Optimizer& optimizer, const TrainStepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      options_(options),
      spikes_(options.skip_spikes),
      reducer_(model.store(), model.tensor_parallel()),
      pipeline_(model.model(), model.mesh(), model.pipeline_options()) {}

StepReport TrainStep::run(int64_t step, const std::vector<Microbatch>& batches, Health* health) {
  const Mesh& mesh = model_.mesh();
  const double targets = sum_over_tokens(mesh, static_cast<double>(count_targets(batches)), "targets");
  const LossScales scales{.target = 1 / std::max(1.0, targets), .sequence = 1 / sequences_of(batches, mesh)};
  StepReport report;

  reducer_.begin(static_cast<int64_t>(batches.size()));
  clear_tallies(model_.declarations().tallies());
  const LossSums sums = pipeline_.forward_backward(batches, scales, health);  // gradients leave in buckets on the way
  {
    const Phase phase("gradient sums");
    reducer_.finish();
  }
  report.loss = sum_over_tokens(mesh, sums.cross_entropy, "loss") * scales.target;
  report.moe = report_experts(sums.auxiliary * scales.sequence);

  double square = 0;
  for (const auto& [kind, kind_square] : optimizer_.squared_grad_norms(mesh)) {
    report.grad_norm_of[kind] = std::sqrt(kind_square);
    square += kind_square;
  }
  report.grad_norm = std::sqrt(square);
  report.skipped = reason_to_skip(report);
  const bool clips = options_.clip && report.grad_norm > *options_.clip;
  if (report.skipped) return report;
  optimizer_.step(step, clips ? *options_.clip / report.grad_norm : 1);
  for (const PlacedBuffer& placed : model_.store().buffers()) placed.buffer->update(placed.buffer->value);
  return report;
}

std::optional<MoeReport> TrainStep::report_experts(double auxiliary) const {
  const Tallies& loads = model_.declarations().tallies();
  if (loads.empty()) return {};
  const Group& all = model_.mesh().all();
  sum_tallies(loads, all, model_.counts_slice());
  MoeReport report{.aux_loss = all.sum(model_.counts_slice() ? auxiliary : 0, "auxiliary loss")};
  for (const auto& load : loads) report.load_max_over_mean = std::max(report.load_max_over_mean, max_over_mean(load->counts));
  return report;
}

// The same on all ranks: loss and norm are global, and of the same bits everywhere.
const char* TrainStep::reason_to_skip(const StepReport& report) {
  if (!std::isfinite(report.grad_norm) || !std::isfinite(report.loss)) return "not finite";
  return spikes_ && spikes_->stands_out(report.loss, report.grad_norm) ? "spike" : nullptr;
}

}  // namespace ropewalk
