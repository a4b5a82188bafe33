// Sums gradients over the ranks that hold the same parameters, bucket by bucket while backward still runs: a bucket leaves as soon as every
// parameter in it has all its contributions (uses x microbatches). What several stages read leaves at the end, when all have come to it.
//
// Where parameters are sharded, a rank gets the sums of what it owns alone. Where gradients are cut too (ZeRO-2), a bucket has memory for
// all of them only from a microbatch's first contribution to its last; what leaves then is added to what the rank keeps.
#pragma once

#include "parallel/parameter_store.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

class GradReducer {
 public:
  // `store` must outlive this.
  GradReducer(const ParameterStore& store, const TensorParallel& tp);
  ~GradReducer();
  GradReducer(const GradReducer&) = delete;
  GradReducer& operator=(const GradReducer&) = delete;

  void begin(int64_t microbatches);  // zeroes the gradients
  void finish();                     // all sums are in place after it

 private:
  // Parts of a bucket whose gradient is also owed to copies on neighbouring tensor ranks: small, and summed first.
  struct Copies {
    Group group;
    std::vector<size_t> parts;
  };
  struct Progress {
    std::vector<size_t> leaves{};  // that ops here read
    std::vector<Copies> copies{};
    int64_t rounds = 0;  // sums started; where gradients are cut there is one a microbatch
    Tensor whole{};      // the gradients that are added to now, all of them
    Work work{};         // of the last sum
    Tensor summed{};     // what it fills, where that is still to be added to what is kept
  };

  void contributed(size_t leaf);
  int64_t microbatches_in(const Bucket& bucket, const Progress& progress) const;
  bool complete(const Bucket& bucket, const Progress& progress) const;
  void make_grads(size_t bucket);
  void start(size_t bucket);
  void settle(size_t bucket);
  void sum(const Copies& copies, const Tensor& grads) const;

  const ParameterStore& store_;
  std::vector<Progress> progress_;      // by bucket
  std::vector<int64_t> contributions_;  // by leaf
  std::optional<size_t> under_way_;     // the bucket whose cut gradients left last
  int64_t microbatches_ = 0;
};

}  // namespace ropewalk
