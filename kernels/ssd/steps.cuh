// Steps and decays of each token, and the way back through them. A warp takes a head of a chunk.
#pragma once

#include "kernels/cuda/row_sums.cuh"
#include "kernels/ssd/tiles.cuh"

namespace ropewalk::cuda::ssd {

struct Step {
  float value, slope;  // slope: by the raw value; zero where a limit holds the step
};

template <class T>
struct StepInputs {
  explicit StepInputs(const SsdOperands& in, const Plan& plan)
      : dt(in.dt),
        a_log(in.a_log.data<float>()),
        dt_bias(in.dt_bias.data<float>()),
        low(static_cast<float>(in.dt_low)),
        high(static_cast<float>(in.dt_high)),
        chunks(plan.chunk_table()),
        chunk_count(plan.chunks),
        heads(in.v.dim(2)) {}

  __device__ Step step(float raw) const {
    const float e = expf(-fabsf(raw)), y = (raw > 0 ? raw : 0) + log1pf(e), sigmoid = (raw < 0 ? e : 1) / (1 + e);
    return {.value = y < low ? low : y > high ? high : y, .slope = y > low && y < high ? sigmoid : 0};
  }
  __device__ double rate(int64_t h) const { return -exp(static_cast<double>(a_log[h])); }

  Heads<const T> dt;
  const float *a_log, *dt_bias;
  float low, high;
  const Tile* chunks;
  int64_t chunk_count, heads;
};

// Steps and their sums of each head and token, for as long as a launch needs them.
struct Steps {
  explicit Steps(const SsdOperands& in)
      : rooms(Tensor::empty({3, in.v.dim(2), in.v.dim(0) * in.v.dim(1)}, DType::kFloat32, Cuda{})),
        cum{reinterpret_cast<Cum*>(rooms.data<float>()), in.v.dim(1), in.v.dim(0) * in.v.dim(1)},
        step{rooms.data<float>() + rooms.numel() / 3 * 2, cum.tokens_a_row, cum.tokens} {}

  Tensor rooms;
  OfTokens<Cum> cum;
  OfTokens<float> step;
};

// Over the lanes up to this one, before this one, and from this one on.
template <class X>
__device__ X sum_up_to(X x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const X below = __shfl_up_sync(kWholeWarp, x, static_cast<unsigned>(step));
    x += lane >= step ? below : X(0);
  }
  return x;
}
__device__ inline float sum_before(float x) {
  const float below = __shfl_up_sync(kWholeWarp, sum_up_to(x), 1);
  return threadIdx.x % kWarp == 0 ? 0 : below;
}
__device__ inline float sum_from(float x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const float above = __shfl_down_sync(kWholeWarp, x, static_cast<unsigned>(step));
    x += lane + step < kWarp ? above : 0;
  }
  return x;
}

// Calls body(chunk, head, chunk * heads + head), a warp each.
template <class T, class Body>
__device__ void for_each_head(const StepInputs<T>& in, const Body& body) {
  const int64_t warps = blockDim.x / kWarp, step = gridDim.x * warps;
  for (int64_t i = blockIdx.x * warps + threadIdx.x / kWarp; i < in.chunk_count * in.heads; i += step)
    body(in.chunks[i / in.heads], i % in.heads, i);
}
template <class T>
Grid grid_of_heads(const StepInputs<T>& in) {
  return grid_for(in.chunk_count * in.heads * kWarp);
}

// decay: exp of the sum over the chunk, or null.
template <class T>
__global__ void find_steps(StepInputs<T> in, OfTokens<float> steps, OfTokens<Cum> cums, float* decay) {
  for_each_head(in, [&](const Tile& chunk, int64_t h, int64_t index) {
    const T* const raw = in.dt.at(chunk, 0, h);
    float* const step = steps.at(chunk, h);
    Cum* const cum = cums.at(chunk, h);
    const double rate = in.rate(h);
    double sum = 0;
    for (int begin = 0; begin < chunk.length; begin += kWarp) {
      const int i = begin + static_cast<int>(threadIdx.x) % kWarp;
      const bool inside = i < chunk.length;
      const float value = inside ? in.step(static_cast<float>(raw[i * in.dt.token]) + in.dt_bias[h]).value : 0;
      const double up_to = sum + sum_up_to(rate * value);
      if (inside) {
        step[i] = value;
        const float high = static_cast<float>(up_to);
        cum[i] = {.high = high, .low = static_cast<float>(up_to - high)};
      }
      sum = __shfl_sync(kWholeWarp, up_to, kWarp - 1);
    }
    if (decay && threadIdx.x % kWarp == 0) decay[index] = expf(static_cast<float>(sum));
  });
}

// ---- backward

// What each chunk and head owes to the parameters, [C, H] each.
struct ParameterParts {
  ParameterParts(int64_t chunks, int64_t heads) : parts(Tensor::empty({3, chunks, heads}, DType::kFloat32, Cuda{})) {
    a_log = parts.data<float>();
    dt_bias = a_log + chunks * heads;
    d_skip = dt_bias + chunks * heads;
  }
  void add_to(const SsdGradients& gradients) const {
    const Tensor* const sums[] = {&gradients.a_log, &gradients.dt_bias, &gradients.d_skip};
    for (int i = 0; i < 3; ++i)
      if (*sums[i]) add_parts(parts.select(0, i), *sums[i]);
  }

  Tensor parts;
  float *a_log, *dt_bias, *d_skip;
};

// Of a head, while its tokens go by.
struct ParameterSums {
  float rate = 0, bias = 0;
};

// The way back through a_i = rate step_i, the limits of dt and softplus for token i, which is owed d_step and d_a.
template <class T>
__device__ void step_backward(const StepInputs<T>& in, const Tile& chunk, int64_t h, int i, float d_step, float d_a, const Heads<T>& d_raw,
                              ParameterSums& sums) {
  const float rate = -expf(in.a_log[h]);
  const Step step = in.step(static_cast<float>(in.dt.at(chunk, 0, h)[i * in.dt.token]) + in.dt_bias[h]);
  const float owed = (d_step + rate * d_a) * step.slope;
  sums.rate += d_a * step.value;
  sums.bias += owed;
  d_raw.at(chunk, 0, h)[i * d_raw.token] = static_cast<T>(owed);
}

template <class T>
__device__ void store_parts(const StepInputs<T>& in, int64_t h, int64_t index, const ParameterSums& sums, float* a_log, float* dt_bias) {
  const float rate = warp_sum(sums.rate), bias = warp_sum(sums.bias);
  if (threadIdx.x % kWarp != 0) return;
  a_log[index] = -expf(in.a_log[h]) * rate;
  dt_bias[index] = bias;
}

// Through weight_j = exp(a_{j+1} + ... + a_last) dt_j, so that a_t is owed what all weights before t are, and what the decay is.
template <class T>
__global__ void backward_of_weights(StepInputs<T> in, OfTokens<const float> steps, OfTokens<const Cum> cums,
                                    OfTokens<const float> d_weights, const float* d_decay, Heads<T> d_raw, float* a_log, float* dt_bias) {
  for_each_head(in, [&](const Tile& chunk, int64_t h, int64_t index) {
    const float* const step = steps.at(chunk, h);
    const float* const d_weight = d_weights.at(chunk, h);
    const Cum* const cum = cums.at(chunk, h);
    const Cum last = cum[chunk.length - 1];
    ParameterSums sums;
    float before = d_decay[index] * expf(last.value());
    for (int begin = 0; begin < chunk.length; begin += kWarp) {
      const int i = begin + static_cast<int>(threadIdx.x) % kWarp;
      const bool inside = i < chunk.length;
      const float d_step = inside ? expf(last - cum[i]) * d_weight[i] : 0, weight = inside ? step[i] * d_step : 0;
      const float d_a = before + sum_before(weight);
      if (inside) step_backward(in, chunk, h, i, d_step, d_a, d_raw, sums);
      before = __shfl_sync(kWholeWarp, d_a + weight, kWarp - 1);
    }
    store_parts(in, h, index, sums, a_log, dt_bias);
  });
}

// What a tile of pairs (i, j) of tokens owes to the steps and decays of a head. With u_ij = d_m_ij scores_ij exp(cum_i - cum_j):
struct PairSums {
  float columns[kTile];  // sum over i of u_ij
  // sum over j of u_ij dt_j; on the diagonal, at t, the sum of those with j < t <= i.
  float rows[kTile];
};

// Through decays inside the chunk: the log of decay i, j is a_{j+1} + ... + a_i, so that a_t is owed what all pairs with j < t <= i are.
// Those are, for t of block K: of tiles (I, J) around it all, of (K, J) the rows from t on, of (I, K) the columns before t, and a part of
// (K, K). No large sums are subtracted from each other: where states decay fast, what is left of them would be noise. d_decays: what
// exp(cum_i) is owed, or null; d_skips: what the skip is owed by each token.
template <class T>
__global__ void backward_of_pairs(StepInputs<T> in, OfTokens<const float> steps, OfTokens<const Cum> cums, const PairSums* pairs,
                                  OfTokens<const float> d_decays, OfTokens<const float> d_skips, Heads<T> d_raw, float* a_log,
                                  float* dt_bias, float* d_skip) {
  for_each_head(in, [&](const Tile& chunk, int64_t h, int64_t index) {
    const float* const step = steps.at(chunk, h);
    const int lane = static_cast<int>(threadIdx.x) % kWarp, blocks = chunk.blocks();
    const auto pair = [&](int i, int j) -> const PairSums& { return pairs[chunk.pair(i, j) * in.heads + h]; };
    // Over the tiles of column block j below block i.
    const auto column_below = [&](int i, int j, int at) {
      float sum = 0;
      for (int k = blocks - 1; k > i; --k) sum += pair(k, j).columns[at];
      return sum;
    };
    ParameterSums sums;
    float skip = 0, entering = 0;
    for (int k = blocks - 1; k >= 0; --k) {
      float around = 0;
      for (int j = 0; j < k; ++j)
        for (int at = lane; at < kTile; at += kWarp) around += column_below(k, j, at) * step[j * kTile + at];
      around = warp_sum(around);
      float d_step[2], d_a[2], before = around, from = 0;
      for (int half = 0; half < 2; ++half) {
        const int at = half * kWarp + lane, i = k * kTile + at;
        const float below = column_below(k, k, at), owed = i < chunk.length ? below * step[i] : 0;
        d_step[half] = below + pair(k, k).columns[at];
        d_a[half] = before + sum_before(owed) + pair(k, k).rows[at];
        before += warp_sum(owed);
      }
      for (int half = 1; half >= 0; --half) {
        const int at = half * kWarp + lane, i = k * kTile + at;
        const bool inside = i < chunk.length;
        float row = 0, d_log = 0;
        for (int j = 0; j < k; ++j) row += pair(k, j).rows[at];
        if (inside && d_decays.data) d_log = expf(cums.at(chunk, h)[i].value()) * d_decays.at(chunk, h)[i];
        d_a[half] += from + sum_from(row) + entering + sum_from(d_log);
        from += warp_sum(row);
        entering += warp_sum(d_log);
        if (!inside) continue;
        step_backward(in, chunk, h, i, d_step[half], d_a[half], d_raw, sums);
        skip += d_skips.at(chunk, h)[i];
      }
    }
    store_parts(in, h, index, sums, a_log, dt_bias);
    skip = warp_sum(skip);
    if (lane == 0) d_skip[index] = skip;
  });
}

}  // namespace ropewalk::cuda::ssd
