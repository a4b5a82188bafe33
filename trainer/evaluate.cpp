#include "trainer/evaluate.h"

#include <algorithm>
#include <numbers>

#include "trainer/batches.h"
#include "trainer/train_step.h"

namespace ropewalk {

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes) return std::nullopt;
  return nats / std::numbers::ln2 / static_cast<double>(*bytes);
}

std::optional<double> Evaluation::accuracy() const {
  if (!right) return std::nullopt;
  return *right / targets;
}

std::string Evaluation::describe() const {
  std::string text = fmt::format("val_loss {:.6f}", loss());
  if (bytes) text += fmt::format("  bits_per_byte {:.6f}", *bits_per_byte());
  if (right) text += fmt::format("  val_accuracy {:.6f}", *accuracy());
  return text;
}

Evaluation evaluate(const RankModel& model, const Dataset& data, int64_t block) {
  const Mesh& mesh = model.mesh();
  const ScoredRows& rows = *data.validation;
  const PipelineOptions options = model.pipeline_options();
  const Pipeline pipeline(model.model(), mesh, options);
  double nats = 0, targets = 0, right = 0;
  Pipeline::Arrival arrive;
  if (data.recall)
    arrive = [&](const Carry& carry, const Context& ctx) { right += static_cast<double>(model.model().count_right(carry.x, ctx)); };
  for (int64_t first = mesh.coordinate(Axis::kData) * block; first < rows.count(); first += mesh.size(Axis::kData) * block) {
    std::vector<Sequence> sequences;
    for (int64_t i = first; i < std::min(first + block, rows.count()); ++i) sequences.push_back(rows.at(i));
    const std::vector<Microbatch> batch = {make_microbatch(sequences, mesh, options.cp.pieces, first)};
    nats += pipeline.forward(batch, arrive);
    targets += static_cast<double>(count_targets(batch));
  }
  Evaluation evaluation{.nats = sum_over_tokens(mesh, nats, "validation loss"),
                        .targets = sum_over_tokens(mesh, targets, "validation targets"),
                        .bytes = data.validation_bytes,
                        .right = std::nullopt};
  if (data.recall) evaluation.right = sum_over_tokens(mesh, right, "validation accuracy");
  return evaluation;
}

}  // namespace ropewalk
