// Sums gradients over the ranks that hold the same parameters, bucket by bucket while backward still runs: a bucket leaves as soon as every
// parameter in it has all its contributions (uses x microbatches). What several stages read leaves at the end, when all have come to it.
//
// Where parameters are sharded, a rank gets the sums of what it owns alone.
#pragma once

#include "parallel/parameter_store.h"

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
    Tensors grads;
  };
  struct Progress {
    size_t parameters = 0, complete = 0;
    std::vector<Copies> copies{};
    Work work{};
  };

  void contributed(size_t leaf);
  void start(size_t bucket);
  static void sum(const Copies& copies);

  const ParameterStore& store_;
  std::vector<Progress> progress_;      // by bucket
  std::vector<int64_t> contributions_;  // by leaf
  int64_t microbatches_ = 0;
};

}  // namespace ropewalk
