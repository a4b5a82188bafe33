#include "parallel/grad_reducer.h"

#include <algorithm>

namespace ropewalk {

GradReducer::GradReducer(const ParameterStore& store, const TensorParallel& tp)
    : store_(store), progress_(store.buckets().size()), contributions_(store.leaves().size()) {
  for (size_t i = 0; i < store.leaves().size(); ++i) {
    const PlacedLeaf& placed = store.leaves()[i];
    if (placed.uses == 0) continue;
    progress_[placed.bucket].leaves.push_back(i);
    placed.leaf->on_contribution = [this, i] { contributed(i); };
    if (store.buckets()[placed.bucket].cut_grad) placed.leaf->make_grad = [this, bucket = placed.bucket] { make_grads(bucket); };
  }
  for (size_t i = 0; i < store.buckets().size(); ++i) {
    std::map<int, Copies> by_number;
    for (const size_t p : store.buckets()[i].parts) {
      const int number = store.parts()[p].tensor_copies;
      if (number == 1) continue;
      by_number[number].group = tp.sharing(number);
      by_number[number].parts.push_back(p);
    }
    for (auto& [number, copies] : by_number) progress_[i].copies.push_back(std::move(copies));
    if (!store.buckets()[i].cut_grad) progress_[i].whole = store.buckets()[i].grad;
  }
}

GradReducer::~GradReducer() {
  for (const PlacedLeaf& placed : store_.leaves()) placed.leaf->on_contribution = placed.leaf->make_grad = nullptr;
}

void GradReducer::begin(int64_t microbatches) {
  const Phase phase("zero gradients");
  microbatches_ = microbatches;
  for (const Bucket& bucket : store_.buckets()) bucket.grad.fill(0);
  std::fill(contributions_.begin(), contributions_.end(), 0);
  for (Progress& progress : progress_) progress.rounds = 0;
}

void GradReducer::make_grads(size_t index) {
  Progress& progress = progress_[index];
  progress.whole = Tensor::zeros({store_.buckets()[index].numel}, store_.wide_dtype());
  for (const size_t i : progress.leaves) store_.leaves()[i].leaf->grad = store_.leaves()[i].of(progress.whole);
}

bool GradReducer::complete(const Bucket& bucket, const Progress& progress) const {
  const int64_t microbatches = microbatches_in(bucket, progress);
  return std::all_of(progress.leaves.begin(), progress.leaves.end(),
                     [&](size_t i) { return contributions_[i] >= store_.leaves()[i].uses * microbatches; });
}

void GradReducer::contributed(size_t leaf) {
  const PlacedLeaf& placed = store_.leaves()[leaf];
  const Bucket& bucket = store_.buckets()[placed.bucket];
  const Progress& progress = progress_[placed.bucket];
  if (++contributions_[leaf] < placed.uses * microbatches_in(bucket, progress) || bucket.late) return;
  if (progress.rounds < (bucket.cut_grad ? microbatches_ : 1) && complete(bucket, progress)) start(placed.bucket);
}

// The microbatches, from the step's first on, that the next sum is to hold.
int64_t GradReducer::microbatches_in(const Bucket& bucket, const Progress& progress) const {
  return bucket.cut_grad ? progress.rounds + 1 : microbatches_;
}

void GradReducer::start(size_t index) {
  const Bucket& bucket = store_.buckets()[index];
  Progress& progress = progress_[index];
  ++progress.rounds;
  if (!progress.whole) make_grads(index);
  for (const Copies& copies : progress.copies) sum(copies, progress.whole);
  if (!bucket.sharded) {
    progress.work = bucket.replicas.all_reduce_in_place(progress.whole, "gradients");
    return;
  }
  if (bucket.cut_grad && under_way_) settle(*under_way_);
  progress.work = bucket.replicas.reduce_scatter_in_place(progress.whole, bucket.cuts, "gradients");
  if (!bucket.cut_grad) return;
  progress.summed = std::exchange(progress.whole, {});
  for (const size_t i : progress.leaves) store_.leaves()[i].leaf->grad = {};
  under_way_ = index;
}

// Adds cut gradients that have left to what is kept, and frees the rest.
void GradReducer::settle(size_t index) {
  const Bucket& bucket = store_.buckets()[index];
  progress_[index].work.wait();
  bucket.grad.add(progress_[index].summed.narrow(0, bucket.owned.begin, bucket.owned.length));
  progress_[index].summed = {};
  under_way_.reset();
}

void GradReducer::finish() {
  for (size_t i = 0; i < contributions_.size(); ++i) {
    const PlacedLeaf& placed = store_.leaves()[i];
    expect(contributions_[i] == placed.uses * microbatches_, "{}: expected {} gradient contributions, given {}", placed.leaf->name,
           placed.uses * microbatches_, contributions_[i]);
  }
  for (size_t i = 0; i < progress_.size(); ++i)
    if (store_.buckets()[i].late) start(i);
  if (under_way_) settle(*under_way_);
  for (Progress& progress : progress_) progress.work.wait();
}

void GradReducer::sum(const Copies& copies, const Tensor& grads) const {
  Tensors of_parts;
  for (const size_t i : copies.parts) of_parts.push_back(grads.narrow(0, store_.parts()[i].offset, store_.parts()[i].numel()));
  const Tensor packed = concat(of_parts, 0);
  copies.group.all_reduce_in_place(packed, "gradients.tensor_copies").wait();
  int64_t at = 0;
  for (const Tensor& grad : of_parts) {
    grad.copy_from(packed.narrow(0, at, grad.numel()));
    at += grad.numel();
  }
}

}  // namespace ropewalk
