#include "trainer/step_metrics.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/tensor/allocator.h"

namespace ropewalk {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); }

}  // namespace

BytesByAxis bytes_sent(const Mesh& mesh) {
  BytesByAxis bytes;
  std::transform(kAxes.begin(), kAxes.end(), bytes.begin(), [&](Axis axis) { return mesh.bytes_sent(axis); });
  return bytes;
}

StepMetrics::StepMetrics(const RankModel& model, const Optimizer& optimizer, const TokenShape& batch, std::optional<double> peak_flops)
    : optimizer_(optimizer), flops_(3 * model.model().cost(batch).flops), peak_flops_(peak_flops) {}

void StepMetrics::put(Census& census, const StepFacts& facts) {
  memory_ = census.put(static_cast<double>(Allocator::host().stats().peak));
  for (size_t i = 0; i < kAxes.size(); ++i) {
    const size_t place = census.put(static_cast<double>(facts.bytes_sent[i]));
    if (i == 0) traffic_ = place;
  }
  for (const Kind kind : kKinds) {
    const auto squares = optimizer_.last_update().find(kind);
    const UpdateSquares mine = squares == optimizer_.last_update().end() ? UpdateSquares{} : squares->second;
    const size_t place = census.put(mine.update);
    census.put(mine.weight);
    if (kind == kKinds[0]) updates_ = place;
  }
  if (facts.health) put(census, *facts.health);
}

void StepMetrics::put(Census& census, const Health& health) {
  for (const SsmHealth& kind : health.all()) {
    const size_t place = census.put(kind.dt_min);
    for (const double value : {kind.dt_max, kind.decay_min, kind.decay_max, kind.state_squares, kind.state_count}) census.put(value);
    if (&kind == &health.all().front()) health_ = place;
  }
}

void StepMetrics::add_update_ratios(ordered_json& metrics, const Census& census) const {
  for (size_t i = 0; i < std::size(kKinds); ++i) {
    const double update = census.sum(updates_ + 2 * i), weight = census.sum(updates_ + 2 * i + 1);
    if (weight > 0) metrics[fmt::format("update_ratio/{}", name_of(kKinds[i]))] = number(std::sqrt(update / weight));
  }
}

void StepMetrics::add_health(ordered_json& metrics, const Census& census) const {
  for (size_t i = 0; i < Health::kKinds.size(); ++i) {
    const size_t at = health_ + 6 * i;
    const double dt_max = census.max(at + 1), states = census.sum(at + 5);
    if (dt_max == 0) continue;  // there is no such layer
    const auto key = [&](const char* what) { return fmt::format("health/{}/{}", Health::kKinds[i], what); };
    metrics[key("dt_min")] = number(census.min(at));
    metrics[key("dt_max")] = number(dt_max);
    metrics[key("decay_min")] = number(census.min(at + 2));
    metrics[key("decay_max")] = number(census.max(at + 3));
    if (states > 0) metrics[key("state_rms")] = number(std::sqrt(census.sum(at + 4) / states));
  }
}

ordered_json StepMetrics::object(const StepFacts& facts, const Census& census) const {
  const StepReport& report = facts.report;
  ordered_json metrics = {{"step", facts.step}, {"tokens", facts.step * facts.tokens_a_step}, {"loss", number(report.loss)}};
  if (facts.evaluation) {
    metrics["val_loss"] = number(facts.evaluation->loss());
    if (const auto bits = facts.evaluation->bits_per_byte()) metrics["val_bits_per_byte"] = number(*bits);
    if (const auto accuracy = facts.evaluation->accuracy()) metrics["val_accuracy"] = number(*accuracy);
  }
  metrics["grad_norm"] = number(report.grad_norm);
  for (const auto& [kind, norm] : report.grad_norm_of) metrics[fmt::format("grad_norm/{}", name_of(kind))] = number(norm);
  if (report.skipped)
    metrics["skipped"] = report.skipped;
  else
    add_update_ratios(metrics, census);
  metrics["skipped_steps"] = facts.step - optimizer_.updates();
  if (report.moe) {
    metrics["moe/aux_loss"] = number(report.moe->aux_loss);
    metrics["moe/load_max_over_mean"] = number(report.moe->load_max_over_mean);
  }
  for (size_t group = 0; group < optimizer_.groups().groups().size(); ++group)
    metrics["lr/" + optimizer_.groups().groups()[group].name] = number(optimizer_.lr(group, facts.step - 1));
  metrics["tokens_per_second"] = number(static_cast<double>(facts.tokens_a_step) / facts.seconds);
  metrics["step_ms"] = number(facts.seconds * 1000);
  metrics["mfu"] = peak_flops_ ? number(flops_ / facts.seconds / *peak_flops_) : ordered_json(nullptr);
  metrics["memory_peak_bytes"] = static_cast<int64_t>(census.max(memory_));
  for (size_t i = 0; i < kAxes.size(); ++i)
    metrics[fmt::format("comm_bytes/{}", name_of(kAxes[i]))] = static_cast<int64_t>(census.sum(traffic_ + i));
  if (facts.health) add_health(metrics, census);
  return metrics;
}

}  // namespace ropewalk
