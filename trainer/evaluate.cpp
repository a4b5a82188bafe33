#include "trainer/evaluate.h"

#include <algorithm>
#include <numbers>

#include "trainer/batches.h"
#include "trainer/train_step.h"

namespace ropewalk {

double Evaluation::bits_per_byte(int64_t bytes) const { return nats / std::numbers::ln2 / static_cast<double>(bytes); }

Evaluation evaluate(const RankModel& model, const ValidationRows& rows, int64_t block) {
  const Mesh& mesh = model.mesh();
  const PipelineOptions options = model.pipeline_options();
  const Pipeline pipeline(model.model(), mesh, options);
  double nats = 0, targets = 0;
  for (int64_t first = mesh.coordinate(Axis::kData) * block; first < rows.count(); first += mesh.size(Axis::kData) * block) {
    std::vector<Sequence> sequences;
    for (int64_t i = first; i < std::min(first + block, rows.count()); ++i) sequences.push_back(rows.at(i));
    const std::vector<Microbatch> batch = {make_microbatch(sequences, mesh, options.cp.pieces, first)};
    nats += pipeline.forward(batch);
    targets += static_cast<double>(count_targets(batch));
  }
  return {.nats = sum_over_tokens(mesh, nats, "validation loss"), .targets = mesh.tokens().sum(targets, "validation targets")};
}

}  // namespace ropewalk
