#include "parallel/grad_reducer.h"

#include <set>

namespace ropewalk {

GradReducer::GradReducer(const ParameterStore& store, const Declarations& declarations, const Mesh& mesh, const TensorParallel& tp,
                         int64_t bucket_bytes)
    : store_(store), tokens_(mesh.tokens()), bucket_of_(store.leaves().size()), contributions_(store.leaves().size()) {
  const auto& leaves = store.leaves();
  for (size_t i = leaves.size(); i-- > 0;) {
    const int64_t end = leaves[i].offset + leaves[i].shape.numel();
    if (buckets_.empty() || buckets_.back().grads.bytes() >= bucket_bytes) buckets_.push_back({.grads = store.grad().narrow(0, end, 0)});
    Bucket& bucket = buckets_.back();
    bucket.grads = store.grad().narrow(0, leaves[i].offset, bucket.grads.numel() + leaves[i].shape.numel());
    if (leaves[i].uses == 0) continue;
    ++bucket.parameters;
    bucket_of_[i] = buckets_.size() - 1;
    leaves[i].leaf->on_contribution = [this, i] { contributed(i); };
  }
  share_over_tensor(tp);
  share_over_stages(declarations, mesh);
}

GradReducer::~GradReducer() {
  for (const PlacedLeaf& placed : store_.leaves()) placed.leaf->on_contribution = nullptr;
}

void GradReducer::share_over_tensor(const TensorParallel& tp) {
  std::map<int, Sharing> by_copies;
  for (const PlacedPart& part : store_.parts()) {
    if (part.tensor_copies == 1) continue;
    Sharing& sharing = by_copies[part.tensor_copies];
    sharing.group = tp.sharing(part.tensor_copies);
    sharing.label = "gradients.tensor_copies";
    sharing.parts.push_back(&part);
  }
  for (auto& [copies, sharing] : by_copies) sharings_.push_back(std::move(sharing));
}

void GradReducer::share_over_stages(const Declarations& declarations, const Mesh& mesh) {
  std::set<std::vector<int>> stage_sets;
  for (const auto& fused : declarations.all()) {
    std::vector<int> stages;
    for (const auto& [stage, uses] : fused->uses) stages.push_back(stage);
    if (stages.size() > 1) stage_sets.insert(stages);
  }
  const int stage = mesh.coordinate(Axis::kPipeline);
  for (const auto& stages : stage_sets) {
    const bool member = std::find(stages.begin(), stages.end(), stage) != stages.end();
    Sharing sharing{.group = mesh.pipeline().split(member ? 1 : 0), .parts = {}, .label = "gradients.stages"};
    for (const PlacedPart& part : store_.parts())
      if (part.stages == stages) sharing.parts.push_back(&part);
    if (member) sharings_.push_back(std::move(sharing));
  }
}

void GradReducer::begin(int64_t microbatches) {
  const Phase phase("zero gradients");
  microbatches_ = microbatches;
  store_.grad().fill(0);
  std::fill(contributions_.begin(), contributions_.end(), 0);
  for (Bucket& bucket : buckets_) bucket.complete = 0;
}

void GradReducer::contributed(size_t leaf) {
  if (++contributions_[leaf] != store_.leaves()[leaf].uses * microbatches_) return;
  Bucket& bucket = buckets_[bucket_of_[leaf]];
  if (++bucket.complete == bucket.parameters) bucket.work = tokens_.all_reduce_in_place(bucket.grads, "gradients");
}

void GradReducer::finish() {
  for (size_t i = 0; i < contributions_.size(); ++i) {
    const PlacedLeaf& placed = store_.leaves()[i];
    expect(contributions_[i] == placed.uses * microbatches_, "{}: expected {} gradient contributions, given {}", placed.leaf->name,
           placed.uses * microbatches_, contributions_[i]);
  }
  for (Bucket& bucket : buckets_) bucket.work.wait();
  for (const Sharing& sharing : sharings_) sum(sharing);
}

void GradReducer::sum(const Sharing& sharing) const {
  if (sharing.group.size() == 1) return;
  Tensors grads;
  for (const PlacedPart* part : sharing.parts) grads.push_back(ParameterStore::span(store_.grad(), *part));
  const Tensor packed = concat(grads, 0);
  sharing.group.all_reduce_in_place(packed, sharing.label).wait();
  int64_t at = 0;
  for (const Tensor& grad : grads) {
    grad.copy_from(packed.narrow(0, at, grad.numel()));
    at += grad.numel();
  }
}

}  // namespace ropewalk
