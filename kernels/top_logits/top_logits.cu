#include "kernels/cross_entropy/logits.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/top_logits/top_logits.h"

namespace ropewalk {
namespace {

using namespace cuda;

struct Top {
  struct State {
    float logit = Maximum::kNone;
    int row = -1;  // of this rank's
  };
  float* top_logit;
  int64_t* top_row;
  int64_t first_row;

  // Rows come in ascending order.
  template <int n, class Row>
  __device__ void add(State& state, const float (&logits)[n], const Row& row, int) const {
#pragma unroll
    for (int j = 0; j < n; ++j)
      if (logits[j] > state.logit) state = {logits[j], static_cast<int>(row(j))};
  }
  __device__ static State join(const State& a, const State& b) {
    return b.logit > a.logit || (b.logit == a.logit && static_cast<unsigned>(b.row) < static_cast<unsigned>(a.row)) ? b : a;
  }
  __device__ static State from_lane(const State& state, int lanes) {
    return {__shfl_xor_sync(kWholeWarp, state.logit, lanes), __shfl_xor_sync(kWholeWarp, state.row, lanes)};
  }
  __device__ void finish(int token, const State& state) const {
    top_logit[token] = state.logit;
    top_row[token] = state.row < 0 ? -1 : first_row + state.row;
  }
};

}  // namespace

void launch(Cuda, const TopLogits& args) {
  args.top_logit.fill(0);
  args.top_row.fill(-1);
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    const Top top{.top_logit = args.top_logit.data<float>(), .top_row = args.top_row.data<int64_t>(), .first_row = args.first_row};
    pass_over_logits<T>(args.x, args.weight, scored_tokens(args.target), 1, top);
  });
}

}  // namespace ropewalk
