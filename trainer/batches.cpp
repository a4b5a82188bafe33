#include "trainer/batches.h"

#include <algorithm>

namespace ropewalk {
namespace {

Tensor stacked(const std::vector<Sequence>& rows, const std::vector<int64_t> Sequence::*field) {
  const auto length = static_cast<int64_t>((rows.front().*field).size());
  const Tensor all = Tensor::empty({static_cast<int64_t>(rows.size()), length}, DType::kInt64);
  int64_t* target = all.data<int64_t>();
  for (const Sequence& row : rows) target = std::copy((row.*field).begin(), (row.*field).end(), target);
  return all;
}

}  // namespace

Microbatch make_microbatch(const std::vector<Sequence>& rows, const Mesh& mesh, int64_t pieces, int64_t first_sample) {
  std::vector<std::vector<int64_t>> begins;
  for (const Sequence& row : rows) begins.push_back(row.document_begins);
  const auto seq_len = static_cast<int64_t>(rows.front().tokens.size());
  const int rank = mesh.coordinate(Axis::kContext), ranks = mesh.size(Axis::kContext);
  return {.layout = make_layout(begins, seq_len, rank, ranks, pieces, first_sample),
          .tokens_BS = local_tokens(stacked(rows, &Sequence::tokens), rank, ranks, pieces),
          .targets_BS = local_tokens(stacked(rows, &Sequence::targets), rank, ranks, pieces)};
}

std::vector<Microbatch> make_batches(const std::function<Sequence(int64_t)>& sequence, int64_t step, const BatchPlan& plan,
                                     const Mesh& mesh) {
  const Phase phase("batches");
  const int64_t data = mesh.size(Axis::kData), mine = mesh.coordinate(Axis::kData);
  const int64_t count = plan.batch / (data * plan.micro_batch);
  std::vector<Microbatch> batches;
  for (int64_t m = 0; m < count; ++m) {
    const int64_t first = step * plan.batch + (m * data + mine) * plan.micro_batch;
    std::vector<Sequence> rows;
    for (int64_t r = 0; r < plan.micro_batch; ++r) rows.push_back(sequence(first + r));
    batches.push_back(make_microbatch(rows, mesh, plan.pieces, first));
  }
  return batches;
}

int64_t count_targets(const std::vector<Microbatch>& batches) {
  int64_t count = 0;
  for (const Microbatch& batch : batches) {
    const auto targets = batch.targets_BS.to_vector<int64_t>();
    count += std::count_if(targets.begin(), targets.end(), [](int64_t target) { return target != Sequence::kIgnored; });
  }
  return count;
}

}  // namespace ropewalk
