// What the kernels of attention are started with.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/tiles.cuh"
#include "kernels/cuda/upload.cuh"

namespace ropewalk::attention_tiles {

// A list of tasks on the device, one block a task and head.
struct Work {
  const AttentionTask* tasks;
  const Meeting* meetings;
  int heads;
  __device__ AttentionTask task() const { return tasks[blockIdx.x / heads]; }
  __device__ int head() const { return blockIdx.x % heads; }
};

// What the kernels over queries (forward, dq) and over keys (dk, dv) are started with.
template <class T>
struct Operands {
  Heads<const T> q, k, v;
  int group;  // query heads a kv head
  int heads;
  int64_t tokens;  // queries a row
  Work work;
  Reach reach;
  float scale;
  bool merge;
  // Where the statistic of a query stands in [B, H, S].
  __device__ int64_t statistic_at(int row, int head, int token) const {
    return (static_cast<int64_t>(row) * heads + head) * tokens + token;
  }
};

// A list on the device, for as long as this lives.
class UploadedTasks {
 public:
  explicit UploadedTasks(const AttentionTasks& list) : tasks_(upload(list.tasks)), meetings_(upload(list.meetings)) {}
  Work of(int heads) const { return {.tasks = tasks_.data, .meetings = meetings_.data, .heads = heads}; }
  Grid grid(const Work& work, size_t shared) const {
    return {.blocks = dim3(static_cast<unsigned>(tasks_.count * work.heads)), .threads = dim3(kThreads), .shared = shared};
  }

 private:
  Uploaded<AttentionTask> tasks_;
  Uploaded<Meeting> meetings_;
};

inline Visibility visibility_of(const AttentionOptions& options) {
  return {std::min(options.window.value_or(Visibility::kUnlimited), Visibility::kUnlimited)};
}
inline int reach_of(const AttentionOptions& options) { return static_cast<int>(std::min<int64_t>(options.window.value_or(kFar), kFar)); }

template <class T, class Args>
Operands<T> operands_of(const Args& args) {
  return {.q = heads_of<const T>(args.q),
          .k = heads_of<const T>(args.k),
          .v = heads_of<const T>(args.v),
          .group = static_cast<int>(args.q.dim(2) / args.k.dim(2)),
          .heads = static_cast<int>(args.q.dim(2)),
          .tokens = args.q.dim(1),
          .work = {},
          .reach = {},
          .scale = static_cast<float>(args.options.scale),
          .merge = args.merge};
}

// Calls body.operator()<T, width>() for the width of tiles that holds the heads.
template <class Body>
void dispatch_tiles(const Tensor& q, const Body& body) {
  expect(q.dim(3) <= 256, "attention: q: expected heads of width at most 256 on a GPU, given {}", q.dim(3));
  dispatch_narrow(q.dtype(), [&]<class T>(std::type_identity<T>) {
    if (q.dim(3) <= 64) return body.template operator()<T, 64>();
    if (q.dim(3) <= 128) return body.template operator()<T, 128>();
    body.template operator()<T, 256>();
  });
}

}  // namespace ropewalk::attention_tiles
