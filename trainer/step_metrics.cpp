#include "trainer/step_metrics.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/tensor/allocator.h"

namespace ropewalk {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); }

}  // namespace

void StepMetrics::put(Census& census) {
  memory_ = census.put(static_cast<double>(Allocator::host().stats().peak));
  for (size_t i = 0; i < kAxes.size(); ++i) {
    const Mesh& mesh = model_.mesh();
    const int64_t sent = (kAxes[i] == Axis::kData ? mesh.tokens() : mesh.axis(kAxes[i])).bytes_sent();
    const size_t place = census.put(static_cast<double>(sent - std::exchange(bytes_sent_[i], sent)));
    if (i == 0) traffic_ = place;
  }
}

ordered_json StepMetrics::object(const StepFacts& facts, const Census& census) const {
  const StepReport& report = facts.report;
  ordered_json metrics = {{"step", facts.step}, {"tokens", facts.step * facts.tokens_a_step}, {"loss", number(report.loss)}};
  if (facts.evaluation) {
    metrics["val_loss"] = number(facts.evaluation->loss());
    metrics["val_bits_per_byte"] = number(facts.evaluation->bits_per_byte(facts.validation_bytes));
  }
  metrics["grad_norm"] = number(report.grad_norm);
  for (const auto& [kind, norm] : report.grad_norm_of) metrics[fmt::format("grad_norm/{}", name_of(kind))] = number(norm);
  if (report.skipped) metrics["skipped"] = report.skipped;
  metrics["skipped_steps"] = facts.step - optimizer_.updates();
  if (report.moe) {
    metrics["moe/aux_loss"] = number(report.moe->aux_loss);
    metrics["moe/load_max_over_mean"] = number(report.moe->load_max_over_mean);
  }
  for (size_t group = 0; group < optimizer_.groups().groups().size(); ++group)
    metrics["lr/" + optimizer_.groups().groups()[group].name] = number(optimizer_.lr(group, facts.step - 1));
  metrics["tokens_per_second"] = number(static_cast<double>(facts.tokens_a_step) / facts.seconds);
  metrics["step_ms"] = number(facts.seconds * 1000);
  metrics["mfu"] = nullptr;  // the peak of this host is not measured yet
  metrics["memory_peak_bytes"] = static_cast<int64_t>(census.max(memory_));
  for (size_t i = 0; i < kAxes.size(); ++i)
    metrics[fmt::format("comm_bytes/{}", name_of(kAxes[i]))] = static_cast<int64_t>(census.sum(traffic_ + i));
  return metrics;
}

}  // namespace ropewalk
