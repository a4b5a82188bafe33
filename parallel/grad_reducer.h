// Sums gradients over the axes that they are owed over, bucket by bucket while backward still runs: a bucket leaves as soon as every
// parameter in it has all its contributions (uses x microbatches). Buckets follow backward: last declared, first sent.
#pragma once

#include "parallel/parameter_store.h"

namespace ropewalk {

class GradReducer {
 public:
  // Collective over the pipeline group: parameters used on several stages get a group of those stages. `store` must outlive this.
  GradReducer(const ParameterStore& store, const Declarations& declarations, const Mesh& mesh, const TensorParallel& tp,
              int64_t bucket_bytes = 25 << 20);
  ~GradReducer();
  GradReducer(const GradReducer&) = delete;
  GradReducer& operator=(const GradReducer&) = delete;

  void begin(int64_t microbatches);  // zeroes the gradients
  void finish();                     // all sums are in place after it

 private:
  struct Bucket {
    Tensor grads;
    size_t parameters = 0, complete = 0;
    Work work{};
  };
  // Parts whose gradient is also owed to copies elsewhere: small, summed together after the buckets.
  struct Sharing {
    Group group;
    std::vector<const PlacedPart*> parts;
    const char* label;
  };

  void contributed(size_t leaf);
  void sum(const Sharing& sharing) const;
  void share_over_tensor(const TensorParallel& tp);
  void share_over_stages(const Declarations& declarations, const Mesh& mesh);

  const ParameterStore& store_;
  Group tokens_;
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;       // by leaf
  std::vector<int64_t> contributions_;  // by leaf
  std::vector<Sharing> sharings_;
  int64_t microbatches_ = 0;
};

}  // namespace ropewalk
