#include "parallel/grad_reducer.h"

namespace ropewalk {

GradReducer::GradReducer(const ParameterStore& store, const TensorParallel& tp)
    : store_(store), progress_(store.buckets().size()), contributions_(store.leaves().size()) {
  for (size_t i = 0; i < store.leaves().size(); ++i) {
    const PlacedLeaf& placed = store.leaves()[i];
    if (placed.uses == 0) continue;
    ++progress_[placed.bucket].parameters;
    placed.leaf->on_contribution = [this, i] { contributed(i); };
  }
  for (size_t i = 0; i < store.buckets().size(); ++i) {
    std::map<int, Copies> by_number;
    for (const size_t p : store.buckets()[i].parts) {
      const PlacedPart& part = store.parts()[p];
      if (part.tensor_copies == 1) continue;
      Copies& copies = by_number[part.tensor_copies];
      copies.group = tp.sharing(part.tensor_copies);
      copies.grads.push_back(store.buckets()[i].grad.narrow(0, part.offset, part.numel()));
    }
    for (auto& [number, copies] : by_number) progress_[i].copies.push_back(std::move(copies));
  }
}

GradReducer::~GradReducer() {
  for (const PlacedLeaf& placed : store_.leaves()) placed.leaf->on_contribution = nullptr;
}

void GradReducer::begin(int64_t microbatches) {
  const Phase phase("zero gradients");
  microbatches_ = microbatches;
  for (const Bucket& bucket : store_.buckets()) bucket.grad.fill(0);
  std::fill(contributions_.begin(), contributions_.end(), 0);
  for (Progress& progress : progress_) progress.complete = 0;
}

void GradReducer::contributed(size_t leaf) {
  const PlacedLeaf& placed = store_.leaves()[leaf];
  if (++contributions_[leaf] != placed.uses * microbatches_) return;
  Progress& progress = progress_[placed.bucket];
  if (++progress.complete == progress.parameters && !store_.buckets()[placed.bucket].late) start(placed.bucket);
}

void GradReducer::start(size_t index) {
  const Bucket& bucket = store_.buckets()[index];
  Progress& progress = progress_[index];
  for (const Copies& copies : progress.copies) sum(copies);
  progress.work = bucket.sharded ? bucket.replicas.reduce_scatter_in_place(bucket.grad, bucket.cuts, "gradients")
                                 : bucket.replicas.all_reduce_in_place(bucket.grad, "gradients");
}

void GradReducer::finish() {
  for (size_t i = 0; i < contributions_.size(); ++i) {
    const PlacedLeaf& placed = store_.leaves()[i];
    expect(contributions_[i] == placed.uses * microbatches_, "{}: expected {} gradient contributions, given {}", placed.leaf->name,
           placed.uses * microbatches_, contributions_[i]);
  }
  for (size_t i = 0; i < progress_.size(); ++i)
    if (store_.buckets()[i].late) start(i);
  for (Progress& progress : progress_) progress.work.wait();
}

void GradReducer::sum(const Copies& copies) {
  const Tensor packed = concat(copies.grads, 0);
  copies.group.all_reduce_in_place(packed, "gradients.tensor_copies").wait();
  int64_t at = 0;
  for (const Tensor& grad : copies.grads) {
    grad.copy_from(packed.narrow(0, at, grad.numel()));
    at += grad.numel();
  }
}

}  // namespace ropewalk
