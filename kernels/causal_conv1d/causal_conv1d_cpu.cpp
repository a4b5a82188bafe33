#include <algorithm>

#include "kernels/causal_conv1d/causal_conv1d.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kTokens = 64;  // of a task
constexpr int kLanes = 32;       // channels kept in registers

// Calls body.template operator()<kWidth>(first channel) for blocks of kLanes channels, then for the last ones one by one.
template <class Body>
[[gnu::always_inline]] inline void for_each_block(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body.template operator()<kLanes>(c);
  for (; c < channels; ++c) body.template operator()<1>(c);
}

// sum[s] = bias[c + s] + sum_j weight[j, c + s] * x[j][c + s], where weight has rows of `channels`. The sums stay in registers.
template <int kWidth, class In>
[[gnu::always_inline]] inline void weighted_sum(int64_t taps, int64_t c, int64_t channels, const In* const* x, const Wide<In>* weight,
                                                const Wide<In>* bias, Wide<In>* sum) {
#pragma omp simd
  for (int s = 0; s < kWidth; ++s) sum[s] = bias[c + s];
  for (int64_t j = 0; j < taps; ++j) {
    const In* x_j = x[j] + c;
    const Wide<In>* weight_j = weight + j * channels + c;
#pragma omp simd
    for (int s = 0; s < kWidth; ++s) sum[s] += weight_j[s] * static_cast<Wide<In>>(x_j[s]);
  }
}

// The leaves below pass over `tokens` tokens, of which number i sees rows[i], .., rows[i + taps - 1]; weight [taps, channels].

// y = silu(z), z = bias + sum_j weight_j x_j; y has dense rows.
template <class T>
void forward_tokens(int64_t tokens, int64_t channels, int64_t taps, const T* const* rows, const Wide<T>* weight, const Wide<T>* bias,
                    T* y) {
  for (int64_t i = 0; i < tokens; ++i)
    for_each_block(channels, [&]<int kWidth>(int64_t c) {
      if (i + 1 < tokens) prefetch_line(rows[i + taps] + c);
      prefetch_line(y + (i + 1) * channels + c);
      Wide<T> z[kWidth];
      weighted_sum<kWidth>(taps, c, channels, rows + i, weight, bias, z);
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) store(y + i * channels + c + s, silu(z[s]));
    });
}

// dz = dy * silu'(z); dz has dense rows, those of dy a stride.
template <class T>
void slopes_of_tokens(int64_t tokens, int64_t channels, int64_t taps, const T* const* rows, const Wide<T>* weight, const Wide<T>* bias,
                      const T* dy, int64_t dy_stride, Wide<T>* dz) {
  for (int64_t i = 0; i < tokens; ++i)
    for_each_block(channels, [&]<int kWidth>(int64_t c) {
      if (i + 1 < tokens) prefetch_line(rows[i + taps] + c);
      prefetch_line(dy + (i + 1) * dy_stride + c);
      Wide<T> z[kWidth];
      weighted_sum<kWidth>(taps, c, channels, rows + i, weight, bias, z);
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) dz[i * channels + c + s] = static_cast<Wide<T>>(dy[i * dy_stride + c + s]) * silu_slope(z[s]);
    });
}

// dx = sum_j weight_j dz_j, where rows hold the dz of the tokens that see a token.
template <class Out, class W>
void input_gradients(int64_t tokens, int64_t channels, int64_t taps, const W* const* rows, const W* weight, const W* zeros, Out* dx,
                     int64_t dx_stride) {
  for (int64_t i = 0; i < tokens; ++i)
    for_each_block(channels, [&]<int kWidth>(int64_t c) {
      prefetch_line(dx + (i + 1) * dx_stride + c);
      W sum[kWidth];
      weighted_sum<kWidth>(taps, c, channels, rows + i, weight, zeros, sum);
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) store(dx + i * dx_stride + c + s, sum[s]);
    });
}

// sum[j, c] += sum_i dz[i, c] * x[i + j][c] for kTaps taps and kWidth channels from c on. A value of x is read once and waits in the
// window for the taps that see it, one a token.
template <int kTaps, int kWidth, class T>
[[gnu::always_inline]] inline void add_products(int64_t tokens, int64_t c, int64_t channels, const Wide<T>* dz, const T* const* x,
                                                Wide<T>* sum) {
  using W = Wide<T>;
  W lane[kTaps][kWidth] = {}, window[kTaps][kWidth];
  const auto read = [&](const T* from, W* to) {
#pragma omp simd
    for (int s = 0; s < kWidth; ++s) to[s] = static_cast<W>(from[c + s]);
  };
  for (int j = 0; j + 1 < kTaps; ++j) read(x[j], window[j]);
  for (int64_t i = 0; i < tokens; ++i) {
    const W* dz_i = dz + i * channels + c;
    read(x[i + kTaps - 1], window[kTaps - 1]);
    for (int j = 0; j < kTaps; ++j) {
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) lane[j][s] += dz_i[s] * window[j][s];
    }
    for (int j = 0; j + 1 < kTaps; ++j) {
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) window[j][s] = window[j + 1][s];
    }
  }
  for (int j = 0; j < kTaps; ++j) {
#pragma omp simd
    for (int s = 0; s < kWidth; ++s) sum[j * channels + c + s] += lane[j][s];
  }
}

// sum[j, c] += sum_i dz[i, c] * rows[i + j][c] for j < taps, and sum[taps, c] += sum_i dz[i, c]. A block of channels of all tokens stays
// in the first cache while groups of taps pass over it.
template <class T>
void add_weight_gradient(int64_t tokens, int64_t channels, int64_t taps, const Wide<T>* dz, const T* const* rows, Wide<T>* sum) {
  constexpr int kTaps = 4;
  for_each_block(channels, [&]<int kWidth>(int64_t c) {
    int64_t j = 0;
    for (; j + kTaps <= taps; j += kTaps) add_products<kTaps, kWidth>(tokens, c, channels, dz, rows + j, sum + j * channels);
    for (; j < taps; ++j) add_products<1, kWidth>(tokens, c, channels, dz, rows + j, sum + j * channels);
    Wide<T> bias[kWidth] = {};
    for (int64_t i = 0; i < tokens; ++i) {
#pragma omp simd
      for (int s = 0; s < kWidth; ++s) bias[s] += dz[i * channels + c + s];
    }
#pragma omp simd
    for (int s = 0; s < kWidth; ++s) sum[taps * channels + c + s] += bias[s];
  });
}

// Tokens [begin, end) of a run.
struct Piece {
  int64_t run, begin, end;
};

// The runs cut into tasks of kTokens tokens; a task may hold the end of one run and the beginning of the next.
std::vector<std::vector<Piece>> tasks_of(const Runs& runs) {
  std::vector<std::vector<Piece>> tasks;
  int64_t room = 0;
  for (size_t r = 0; r < runs.size(); ++r)
    for (int64_t begin = 0; begin < runs[r].length;) {
      if (room == 0) {
        tasks.emplace_back();
        room = kTokens;
      }
      const int64_t end = std::min(runs[r].length, begin + room);
      tasks.back().push_back({static_cast<int64_t>(r), begin, end});
      room -= end - begin;
      begin = end;
    }
  return tasks;
}

// The operands of both directions, and the weight as the loops want it: wide, one row of channels a tap.
template <class T>
struct Operands {
  using W = Wide<T>;

  Operands(const Tensor& x_BSC, const Tensor& weight_CW, const Tensor& bias_C, const Tensor& halo_EVC, const Runs& all_runs)
      : x(rows_of<T>(x_BSC, "causal_conv1d: x")),
        tokens(x_BSC.dim(1)),
        channels(x_BSC.dim(2)),
        taps(weight_CW.dim(1)),
        halo(halo_EVC ? halo_EVC.data<T>() : nullptr),
        zeros(static_cast<size_t>(channels)),
        weight(static_cast<size_t>(taps * channels)),
        bias(bias_C.to_vector<W>()),
        runs(all_runs) {
    const auto by_channel = weight_CW.to_vector<W>();
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t j = 0; j < taps; ++j) weight[j * channels + c] = by_channel[c * taps + j];
  }

  int64_t row_of(const Run& run, int64_t token) const { return run.row * tokens + run.begin + token; }

  // Position `token` of a run, which is negative for what came before it.
  const T* input(const Run& run, int64_t token) const {
    if (token >= 0) return x[row_of(run, token)];
    return halo && !run.opens() ? halo + ((run.enters + 1) * (taps - 1) + token) * channels : zeros.data();
  }

  // Positions [begin - (taps - 1), end): what tokens [begin, end) see. Tap j of token begin + i is number i + j.
  std::vector<const T*> inputs(const Run& run, int64_t begin, int64_t end) const {
    std::vector<const T*> rows;
    for (int64_t token = begin - (taps - 1); token < end; ++token) rows.push_back(input(run, token));
    return rows;
  }

  Rows<T> x;
  int64_t tokens, channels, taps;
  const T* halo;
  std::vector<T> zeros;
  std::vector<W> weight, bias;
  const Runs& runs;
};

template <class T>
void run_forward(const CausalConv1dForward& args) {
  const Operands<T> in(args.x, args.weight, args.bias, args.halo, args.runs);
  T* y = args.y.data<T>();
  const auto tasks = tasks_of(args.runs);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t task) {
    for (const Piece& piece : tasks[task]) {
      const Run& run = in.runs[piece.run];
      const auto rows = in.inputs(run, piece.begin, piece.end);
      vectorized<forward_tokens<T>>(piece.end - piece.begin, in.channels, in.taps, rows.data(), in.weight.data(), in.bias.data(),
                                    y + in.row_of(run, piece.begin) * in.channels);
    }
  });
}

// The gradients under the SiLU, dz, of the tokens that see a piece: [begin, end + taps - 1), which the end of the run may cut short.
template <class T>
class Slopes {
 public:
  using W = Wide<T>;

  Slopes(const Operands<T>& in, const Rows<T>& dy, const Piece& piece, const W* zeros)
      : inputs_(in.inputs(in.runs[piece.run], piece.begin, std::min(in.runs[piece.run].length, piece.end + in.taps - 1))),
        dz_(Tensor::empty({static_cast<int64_t>(inputs_.size()) - (in.taps - 1), in.channels}, dtype_of<W>())),
        seen_by_(static_cast<size_t>(piece.end - piece.begin + 2 * (in.taps - 1)), zeros) {
    W* const dz = dz_.data<W>();
    vectorized<slopes_of_tokens<T>>(dz_.dim(0), in.channels, in.taps, inputs_.data(), in.weight.data(), in.bias.data(),
                                    dy[in.row_of(in.runs[piece.run], piece.begin)], dy.stride, dz);
    for (int64_t i = 0; i < dz_.dim(0); ++i) seen_by_[in.taps - 1 + i] = dz + i * in.channels;
  }

  const T* const* inputs() const { return inputs_.data(); }
  const W* dz() const { return dz_.data<W>(); }
  // The dz of the tokens that see number i of the inputs, first to last: one a tap, zeros outside the run.
  const W* const* seeing_input(int64_t i) const { return &seen_by_[i]; }

 private:
  std::vector<const T*> inputs_;
  Tensor dz_;
  std::vector<const W*> seen_by_;
};

// d_weight [C, taps] += sum over tasks of partials [tasks, taps + 1, C] up to the last row, d_bias [C] += that of the last row.
template <class W>
void add_in_order(const Tensor& partials, const Tensor& d_weight, const Tensor& d_bias) {
  const int64_t tasks = partials.dim(0), taps = partials.dim(1) - 1, channels = partials.dim(2), size = (taps + 1) * channels;
  std::vector<W> sum(static_cast<size_t>(size));
  const W* partial = partials.data<W>();
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t i = 0; i < size; ++i) sum[i] += partial[task * size + i];
  if (d_weight) {
    W* to = d_weight.data<W>();
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t j = 0; j < taps; ++j) to[c * taps + j] += sum[j * channels + c];
  }
  if (d_bias) {
    W* to = d_bias.data<W>();
    for (int64_t c = 0; c < channels; ++c) to[c] += sum[taps * channels + c];
  }
}

// d_halo [E, ..] += the gradients [R, ..] of what the runs entered from.
void add_in_order(const Tensor& by_run, const Runs& runs, const Tensor& d_halo) {
  for (size_t r = 0; r < runs.size(); ++r)
    if (!runs[r].opens()) d_halo.select(0, runs[r].enters).add(by_run.select(0, static_cast<int64_t>(r)));
}

// dx[s] = sum_j weight[j] dz[s + (W - 1) - j]: the weighted sum of forward, over dz and with the taps reversed.
template <class W>
std::vector<W> reversed_taps(const std::vector<W>& weight, int64_t taps, int64_t channels) {
  std::vector<W> reversed(weight.size());
  for (int64_t j = 0; j < taps; ++j) std::copy_n(weight.data() + (taps - 1 - j) * channels, channels, reversed.data() + j * channels);
  return reversed;
}

template <class T>
void run_backward(const CausalConv1dBackward& args) {
  using W = Wide<T>;
  const Operands<T> in(args.x, args.weight, args.bias, args.halo, args.runs);
  const Rows<T> dy = rows_of<T>(args.dy, "causal_conv1d: dy"), dx = rows_of<T>(args.dx, "causal_conv1d: dx");
  const int64_t channels = in.channels, taps = in.taps, before = taps - 1;
  const std::vector<W> reversed = reversed_taps(in.weight, taps, channels), zeros(static_cast<size_t>(channels));
  const auto tasks = tasks_of(args.runs);
  const auto task_count = static_cast<int64_t>(tasks.size()), run_count = static_cast<int64_t>(args.runs.size());
  const bool weights_wanted = args.d_weight || args.d_bias;
  const Tensor partials = Tensor::zeros({weights_wanted ? task_count : 0, taps + 1, channels}, dtype_of<W>());
  const Tensor d_before = Tensor::empty({args.d_halo ? run_count : 0, before, channels}, dtype_of<W>());  // several runs may share a halo
  W *partial = partials.data<W>(), *d_run = d_before.data<W>();

  parallel_for(task_count, [&](int64_t task) {
    for (const Piece& piece : tasks[task]) {
      const Run& run = in.runs[piece.run];
      const Slopes<T> slopes(in, dy, piece, zeros.data());
      const auto give = [&]<class To>(int64_t first, int64_t count, To* to, int64_t stride) {
        vectorized<input_gradients<To, W>>(count, channels, taps, slopes.seeing_input(first), reversed.data(), zeros.data(), to, stride);
      };
      give(before, piece.end - piece.begin, dx[in.row_of(run, piece.begin)], dx.stride);
      if (args.d_halo && piece.begin == 0 && !run.opens()) give(0, before, d_run + piece.run * before * channels, channels);
      if (weights_wanted)
        vectorized<add_weight_gradient<T>>(piece.end - piece.begin, channels, taps, slopes.dz(), slopes.inputs(),
                                           partial + task * (taps + 1) * channels);
    }
  });

  if (weights_wanted) add_in_order<W>(partials, args.d_weight, args.d_bias);
  if (args.d_halo) add_in_order(d_before, args.runs, args.d_halo);
}

}  // namespace

void launch(Cpu, const CausalConv1dForward& args) {
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run_forward<T>(args); });
}

void launch(Cpu, const CausalConv1dBackward& args) {
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run_backward<T>(args); });
}

}  // namespace ropewalk
