#include <algorithm>
#include <cmath>

#include "kernels/matmul/tile.h"
#include "kernels/ssd/ssd.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

// A task is one chunk of one group of heads; its operands are copied into scratch of the wide type that stays in the second cache.
// Letters below: L tokens of the chunk, P width of a head, N size of the state, cum_i = sum_{t <= i} a_t inside the chunk.
namespace ropewalk {
namespace {

constexpr int64_t kBlock = 32;  // tokens: the square scores of a chunk are made this many rows at a time, in rows of whole blocks

int64_t padded(int64_t tokens) { return (tokens + kBlock - 1) / kBlock * kBlock; }

// Tokens and heads of a [B, S, heads] or [B, S, heads, width] tensor.
template <class T>
struct Heads {
  explicit Heads(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
  T* at(const SsdChunk& chunk, int64_t h) const { return data + chunk.row * row + chunk.begin * token + h * head; }

  T* data;
  int64_t row, token, head;
};

// ---- leaves -------------------------------------------------------------------------------------------------------------------------

// g++ keeps a bfloat16 made right in a vectorized loop as a private array, and the loop scalar; behind a call it vectorizes.
template <class T>
void store(T* to, Wide<T> value) {
  *to = static_cast<T>(value);
}

// to[i, :] = from[i, :]
template <class T>
ROPEWALK_VECTORIZED void load_rows(int64_t rows, int64_t width, const T* from, int64_t stride, Wide<T>* to) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(from + i * stride + width + j, 0, 2);
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = static_cast<Wide<T>>(from[i * stride + j]);
  }
}

// to[i, :] = from[i, :]
template <class T>
ROPEWALK_VECTORIZED void store_rows(int64_t rows, int64_t width, const Wide<T>* from, T* to, int64_t stride) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(to + i * stride + width + j, 1, 2);
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, from[i * width + j]);
  }
}

// to[i, :] = scale[i] * from[i, :]; to may be from.
template <class W>
ROPEWALK_VECTORIZED void scale_rows(int64_t rows, int64_t width, const W* scale, const W* from, W* to) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = scale[i] * from[i * width + j];
}

// to[i, :] = base[i, :] + scale[i] * from[i, :], where base and to share a stride.
template <class T>
ROPEWALK_VECTORIZED void add_scaled_rows(int64_t rows, int64_t width, const Wide<T>* scale, const Wide<T>* from, const Wide<T>* base, T* to,
                                         int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, base[i * stride + j] + scale[i] * from[i * width + j]);
}

// to[i] = <x[i, :], y[i, :]>
template <class W>
ROPEWALK_VECTORIZED void dot_rows(int64_t rows, int64_t width, const W* x, const W* y, W* to) {
  for (int64_t i = 0; i < rows; ++i) {
    W sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += x[i * width + j] * y[i * width + j];
    to[i] = sum;
  }
}

// x becomes softplus(x).
template <class W>
ROPEWALK_VECTORIZED void softplus_row(int64_t n, W* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = softplus(x[i]);
}

// d becomes d * sigmoid(x).
template <class W>
ROPEWALK_VECTORIZED void softplus_backward_row(int64_t n, const W* x, W* d) {
  for (int64_t i = 0; i < n; ++i) d[i] *= sigmoid(x[i]);
}

// to[i] = exp(last - cum[i])
template <class W>
ROPEWALK_VECTORIZED void decay_until(int64_t n, double last, const double* cum, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = fast_exp(static_cast<W>(last - cum[i]));
}

// to[i] = exp(cum[i])
template <class W>
ROPEWALK_VECTORIZED void decay_since_start(int64_t n, const double* cum, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = fast_exp(static_cast<W>(cum[i]));
}

// decay[i - first, j] = exp(cum_i - cum_j) for rows i in [first, first + rows) and columns j <= i; 0 for j > i up to first + kBlock.
// Left of the diagonal block the exponential is a product over the block's border: both factors are at most 1. Inside it differences are
// masked before they are raised, so that nothing overflows. `before` is scratch for `first` values.
template <class W>
ROPEWALK_VECTORIZED void decay_block(int64_t first, int64_t rows, const double* cum, W* before, W* decay, int64_t stride) {
  for (int64_t j = 0; j < first; ++j) before[j] = fast_exp(static_cast<W>(cum[first] - cum[j]));
  for (int64_t i = 0; i < rows; ++i) {
    const double cum_i = cum[first + i];
    const W after = fast_exp(static_cast<W>(cum_i - cum[first]));
    W* row = decay + i * stride;
    for (int64_t j = 0; j < first; ++j) row[j] = after * before[j];
    for (int64_t j = 0; j < kBlock; ++j) row[first + j] = fast_exp(j <= i ? static_cast<W>(cum_i - cum[first + j]) : W(-1e30));
  }
}

// decay[i, j] *= scores[i, j] * dt[j]
template <class W>
ROPEWALK_VECTORIZED void weigh_scores(int64_t rows, int64_t columns, int64_t stride, const W* scores, const W* dt, W* decay) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) decay[i * stride + j] *= scores[i * stride + j] * dt[j];
}

// The way back through m_ij = scores_ij decay_ij dt_j, for the block of rows whose diagonal begins at column `first`. Adds to d_scores;
// to d_step_j and d_cum_i what pairs j < i owe them (the diagonal's decay is 1 whatever the steps are, and its share would only cancel);
// turns decay into m.
template <class W>
ROPEWALK_VECTORIZED void weigh_scores_backward(int64_t first, int64_t rows, int64_t stride, const W* d_m, const W* scores, const W* step,
                                               W* decay, W* d_scores, W* d_step, W* d_cum) {
  for (int64_t i = 0; i < rows; ++i) {
    W row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
    for (int64_t j = 0; j < first + kBlock; ++j) {
      const int64_t at = i * stride + j;
      const W weight = decay[at] * step[j], through = j < first + i ? d_m[at] * scores[at] * decay[at] : W(0);
      d_scores[at] += d_m[at] * weight;
      d_step[j] += through;
      row_sum += through * step[j];
      decay[at] = scores[at] * weight;
    }
    d_cum[i] += row_sum;
  }
}

// ---- what both ops share ------------------------------------------------------------------------------------------------------------

template <class W>
struct Scratch {
  explicit Scratch(int64_t count) : storage(Tensor::empty({count}, dtype_of<W>())), data(storage.data<W>()) {}
  operator W*() const { return data; }

  Tensor storage;
  W* data;
};

template <class T>
struct Operands {
  using W = Wide<T>;

  explicit Operands(const SsdOperands& in)
      : v(in.v),
        dt(in.dt),
        b(in.b),
        heads(in.v.dim(2)),
        width(in.v.dim(3)),
        groups(in.b.dim(2)),
        state(in.b.dim(3)),
        a_log(in.a_log.data<W>()),
        dt_bias(in.dt_bias.data<W>()),
        chunks(in.chunks) {}

  // Calls body(chunk, its index, group) for all of them, in parallel.
  template <class Body>
  void for_each_group(const Body& body) const {
    parallel_for(static_cast<int64_t>(chunks.size()) * groups,
                 [&](int64_t task) { body(chunks[task / groups], task / groups, task % groups); });
  }
  int64_t first_head(int64_t group) const { return group * (heads / groups); }

  // dt before softplus.
  void raw_steps(const SsdChunk& chunk, int64_t h, W* raw) const {
    const T* from = dt.at(chunk, h);
    for (int64_t i = 0; i < chunk.length; ++i) raw[i] = static_cast<W>(from[i * dt.token]) + dt_bias[h];
  }

  // dt and cum of a head, followed by zeros up to whole blocks. Differences of cum are what counts, and it grows: hence double.
  void steps(const SsdChunk& chunk, int64_t h, W* step, double* cum) const {
    raw_steps(chunk, h, step);
    softplus_row(chunk.length, step);
    const double rate = -std::exp(static_cast<double>(a_log[h]));
    double sum = 0;
    for (int64_t i = 0; i < chunk.length; ++i) cum[i] = sum += rate * step[i];
    const int64_t rest = padded(chunk.length) - chunk.length;
    std::fill_n(step + chunk.length, rest, W(0));
    std::fill_n(cum + chunk.length, rest, 0.0);
  }

  Heads<T> v, dt, b;
  int64_t heads, width, groups, state;
  const W *a_log, *dt_bias;
  const std::vector<SsdChunk>& chunks;
};

// Parameter gradients of each chunk and head, which are then added in order.
template <class W>
struct ParameterPartials {
  explicit ParameterPartials(int64_t chunk_count, int64_t head_count)
      : chunks(chunk_count), heads(head_count), a_log(chunks * heads), dt_bias(chunks * heads), d_skip(chunks * heads) {}

  void add_to(const SsdGradients& gradients) const {
    add(a_log, gradients.a_log);
    add(dt_bias, gradients.dt_bias);
    add(d_skip, gradients.d_skip);
  }

  void add(const W* partials, const Tensor& gradient) const {
    if (!gradient) return;
    W* to = gradient.data<W>();
    for (int64_t h = 0; h < heads; ++h) {
      W sum = 0;
      for (int64_t c = 0; c < chunks; ++c) sum += partials[c * heads + h];
      to[h] += sum;
    }
  }

  int64_t chunks, heads;
  Scratch<W> a_log, dt_bias, d_skip;
};

// The way back through cum, dt and softplus. Consumes d_step, what dt itself is owed, and d_cum.
template <class T>
void steps_backward(const Operands<T>& in, const SsdChunk& chunk, int64_t index, int64_t h, const Wide<T>* step, Wide<T>* d_step,
                    Wide<T>* d_cum, const Heads<T>& to, const ParameterPartials<Wide<T>>& partials) {
  using W = Wide<T>;
  const W rate = -std::exp(in.a_log[h]);
  W d_a = 0, d_rate = 0, d_bias = 0;
  for (int64_t i = chunk.length; i-- > 0;) {
    d_a += d_cum[i];
    d_rate += d_a * step[i];
    d_step[i] += rate * d_a;
  }
  W* raw = d_cum;
  in.raw_steps(chunk, h, raw);
  softplus_backward_row(chunk.length, raw, d_step);
  T* d_raw = to.at(chunk, h);
  for (int64_t i = 0; i < chunk.length; ++i) {
    d_bias += d_step[i];
    d_raw[i * to.token] = static_cast<T>(d_step[i]);
  }
  partials.a_log[index * in.heads + h] = rate * d_rate;
  partials.dt_bias[index * in.heads + h] = d_bias;
}

// ---- ssd_chunk_states: local = sum_j exp(cum_last - cum_j) dt_j v_j b_j^T -----------------------------------------------------------

template <class T>
void states_forward(const SsdStatesForward& args) {
  using W = Wide<T>;
  const Operands<T> in(args.in);
  const int64_t P = in.width, N = in.state;
  W *decay = args.decay.data<W>(), *local = args.local.data<W>();
  in.for_each_group([&](const SsdChunk& chunk, int64_t index, int64_t group) {
    const int64_t L = chunk.length;
    const Scratch<double> cum(padded(L));
    const Scratch<W> b(L * N), v(L * P), step(padded(L)), until_end(L);
    load_rows(L, N, in.b.at(chunk, group), in.b.token, b.data);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      decay_until(L, cum[L - 1], cum.data, until_end.data);
      for (int64_t j = 0; j < L; ++j) until_end[j] *= step[j];
      load_rows(L, P, in.v.at(chunk, h), in.v.token, v.data);
      scale_rows(L, P, until_end.data, v.data, v.data);
      W* sum = local + (index * in.heads + h) * P * N;
      std::fill_n(sum, P * N, W(0));
      tile::multiply_add(P, N, L, tile::Matrix<W>{v, P}.transposed(), b.data, N, sum, N);
      decay[index * in.heads + h] = static_cast<W>(std::exp(cum[L - 1]));
    }
  });
}

template <class T>
void states_backward(const SsdStatesBackward& args) {
  using W = Wide<T>;
  const Operands<T> in(args.in);
  const Heads<T> dv(args.gradients.v), d_raw(args.gradients.dt), db(args.gradients.b);
  const ParameterPartials<W> partials(static_cast<int64_t>(in.chunks.size()), in.heads);
  const int64_t P = in.width, N = in.state;
  const W *d_decay = args.d_decay.data<W>(), *d_local = args.d_local.data<W>();
  in.for_each_group([&](const SsdChunk& chunk, int64_t index, int64_t group) {
    const int64_t L = chunk.length;
    const Scratch<double> cum(padded(L));
    const Scratch<W> b(L * N), v(L * P), step(padded(L)), until_end(L), weight(L), d_weight(L), d_step(L), d_cum(L);
    const Scratch<W> d_local_t(N * P), d_weighted(L * P), d_b(L * N);
    load_rows(L, N, in.b.at(chunk, group), in.b.token, b.data);
    std::fill_n(d_b.data, L * N, W(0));
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      const W* d_sum = d_local + (index * in.heads + h) * P * N;
      in.steps(chunk, h, step, cum);
      decay_until(L, cum[L - 1], cum.data, until_end.data);
      for (int64_t j = 0; j < L; ++j) weight[j] = until_end[j] * step[j];
      load_rows(L, P, in.v.at(chunk, h), in.v.token, v.data);

      // local = sum_j (weight_j v_j) b_j^T
      tile::transpose(P, N, d_sum, N, d_local_t.data, P);
      std::fill_n(d_weighted.data, L * P, W(0));
      tile::multiply_add(L, P, N, tile::Matrix<W>{b, N}, d_local_t.data, P, d_weighted.data, P);
      dot_rows(L, P, v.data, d_weighted.data, d_weight.data);
      scale_rows(L, P, weight.data, d_weighted.data, d_weighted.data);
      store_rows(L, P, d_weighted.data, dv.at(chunk, h), dv.token);
      scale_rows(L, P, weight.data, v.data, v.data);
      tile::multiply_add(L, N, P, tile::Matrix<W>{v, P}, d_sum, N, d_b.data, N);

      // weight_j = exp(cum_last - cum_j) dt_j, decay = exp(cum_last)
      W d_last = d_decay[index * in.heads + h] * static_cast<W>(std::exp(cum[L - 1]));
      for (int64_t j = 0; j < L; ++j) {
        d_step[j] = until_end[j] * d_weight[j];
        d_cum[j] = -weight[j] * d_weight[j];
        if (j < L - 1) d_last -= d_cum[j];
      }
      d_cum[L - 1] = d_last;
      steps_backward(in, chunk, index, h, step.data, d_step.data, d_cum.data, d_raw, partials);
    }
    store_rows(L, N, d_b.data, db.at(chunk, group), db.token);
  });
  partials.add_to(args.gradients);
}

// ---- ssd_chunk_outputs: y_i = sum_{j <= i} (c_i . b_j) exp(cum_i - cum_j) dt_j v_j + d_skip v_i + exp(cum_i) h0 c_i -----------------

// Rows [first, first + rows) of the square of scores. They see the columns [0, seen); `columns` rounds that up to whole blocks, and what
// it adds is zero.
struct Block {
  int64_t first, rows, seen, columns;
};

template <class Body>
void for_each_block(int64_t tokens, const Body& body) {
  for (int64_t first = 0; first < tokens; first += kBlock) {
    const int64_t rows = std::min(kBlock, tokens - first);
    body(Block{first, rows, first + rows, first + kBlock});
  }
}

// to [width, padded(L)] = transpose of from [L, width], then zeros.
template <class W>
void transpose_padded(int64_t tokens, int64_t width, const W* from, W* to) {
  const int64_t stride = padded(tokens);
  for (int64_t j = 0; j < width; ++j) std::fill_n(to + j * stride + tokens, stride - tokens, W(0));
  tile::transpose(tokens, width, from, width, to, stride);
}

// b, c and their scores c_i . b_j, which all heads of a group share.
template <class T>
struct GroupScores {
  using W = Wide<T>;

  GroupScores(const Operands<T>& in, const Heads<T>& c_heads, const SsdChunk& chunk, int64_t group)
      : stride(padded(chunk.length)), b(chunk.length * in.state), c(chunk.length * in.state), scores(chunk.length * stride) {
    const Scratch<W> b_t(in.state * stride);
    load_rows(chunk.length, in.state, in.b.at(chunk, group), in.b.token, b.data);
    load_rows(chunk.length, in.state, c_heads.at(chunk, group), c_heads.token, c.data);
    transpose_padded(chunk.length, in.state, b.data, b_t.data);
    std::fill_n(scores.data, chunk.length * stride, W(0));
    for_each_block(chunk.length, [&](const Block& block) {
      tile::multiply_add(block.rows, block.columns, in.state, tile::Matrix<W>{c + block.first * in.state, in.state}, b_t.data, stride,
                         scores + block.first * stride, stride);
    });
  }

  int64_t stride;
  Scratch<W> b, c, scores;
};

// y without the entering state's part, still wide.
template <class T>
void outputs_inside(const SsdOutputsForward& args, const Tensor& inside) {
  using W = Wide<T>;
  const Operands<T> in(args.in);
  const Heads<T> c(args.in.c);
  const Heads<W> y(inside);
  const W* d_skip = args.in.d_skip.data<W>();
  const int64_t P = in.width;
  in.for_each_group([&](const SsdChunk& chunk, int64_t, int64_t group) {
    const int64_t L = chunk.length;
    const GroupScores<T> shared(in, c, chunk, group);
    const int64_t stride = shared.stride;
    const Scratch<double> cum(stride);
    const Scratch<W> v(L * P), step(stride), before(stride), m(kBlock * stride), sum(kBlock * P), skip(kBlock);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      load_rows(L, P, in.v.at(chunk, h), in.v.token, v.data);
      std::fill_n(skip.data, kBlock, d_skip[h]);
      for_each_block(L, [&](const Block& block) {
        decay_block(block.first, block.rows, cum.data, before.data, m.data, stride);
        weigh_scores(block.rows, block.columns, stride, shared.scores + block.first * stride, step.data, m.data);
        scale_rows(block.rows, P, skip.data, v + block.first * P, sum.data);
        tile::multiply_add(block.rows, P, block.seen, tile::Matrix<W>{m, stride}, v.data, P, sum.data, P);
        store_rows(block.rows, P, sum.data, y.at(chunk, h) + block.first * y.token, y.token);
      });
    }
  });
}

// y = inside + exp(cum_i) h0 c_i
template <class T>
void add_outputs_of_entering(const SsdOutputsForward& args, const Tensor& inside) {
  using W = Wide<T>;
  const W* h0 = args.h0.data<W>();
  const Operands<T> in(args.in);
  const Heads<T> c_heads(args.in.c), y(args.y);
  const Heads<W> y_inside(inside);
  const int64_t P = in.width, N = in.state;
  in.for_each_group([&](const SsdChunk& chunk, int64_t index, int64_t group) {
    const int64_t L = chunk.length;
    const Scratch<double> cum(padded(L));
    const Scratch<W> c(L * N), step(padded(L)), since_start(L), h0_t(N * P), sum(L * P);
    load_rows(L, N, c_heads.at(chunk, group), c_heads.token, c.data);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      decay_since_start(L, cum.data, since_start.data);
      tile::transpose(P, N, h0 + (index * in.heads + h) * P * N, N, h0_t.data, P);
      std::fill_n(sum.data, L * P, W(0));
      tile::multiply_add(L, P, N, tile::Matrix<W>{c, N}, h0_t.data, P, sum.data, P);
      add_scaled_rows(L, P, since_start.data, sum.data, y_inside.at(chunk, h), y.at(chunk, h), y.token);
    }
  });
}

template <class T>
void outputs_backward(const SsdOutputsBackward& args) {
  using W = Wide<T>;
  const Operands<T> in(args.in);
  const Heads<T> c_heads(args.in.c), dy_heads(args.dy);
  const Heads<T> to_v(args.gradients.v), to_dt(args.gradients.dt), to_b(args.gradients.b), to_c(args.gradients.c);
  const ParameterPartials<W> partials(static_cast<int64_t>(in.chunks.size()), in.heads);
  const W *d_skip = args.in.d_skip.data<W>(), *h0 = args.h0 ? args.h0.data<W>() : nullptr;
  W* d_h0 = args.d_h0 ? args.d_h0.data<W>() : nullptr;
  const int64_t P = in.width, N = in.state;
  in.for_each_group([&](const SsdChunk& chunk, int64_t index, int64_t group) {
    const int64_t L = chunk.length;
    const GroupScores<T> shared(in, c_heads, chunk, group);
    const int64_t stride = shared.stride;
    const Scratch<double> cum(stride);
    const Scratch<W> step(stride), before(stride), since_start(L), skip(L), dy_v(L), d_step(stride), d_cum(stride), row(L);
    const Scratch<W> v(L * P), v_t(P * stride), dy(L * P), dv(L * P), m(kBlock * stride), d_m(kBlock * stride), through_h0(L * N);
    const Scratch<W> d_scores(L * stride), db(L * N), dc(L * N);
    for (W* sum : {d_scores.data, db.data, dc.data}) std::fill_n(sum, sum == d_scores.data ? L * stride : L * N, W(0));

    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      load_rows(L, P, in.v.at(chunk, h), in.v.token, v.data);
      load_rows(L, P, dy_heads.at(chunk, h), dy_heads.token, dy.data);
      transpose_padded(L, P, v.data, v_t.data);
      std::fill_n(skip.data, L, d_skip[h]);
      scale_rows(L, P, skip.data, dy.data, dv.data);
      std::fill_n(d_step.data, stride, W(0));
      std::fill_n(d_cum.data, stride, W(0));

      for_each_block(L, [&](const Block& block) {
        const W* dy_rows = dy + block.first * P;
        std::fill_n(d_m.data, block.rows * stride, W(0));
        tile::multiply_add(block.rows, block.columns, P, tile::Matrix<W>{dy_rows, P}, v_t.data, stride, d_m.data, stride);
        for (int64_t i = 0; i < block.rows; ++i) dy_v[block.first + i] = d_m[i * stride + block.first + i];
        decay_block(block.first, block.rows, cum.data, before.data, m.data, stride);
        weigh_scores_backward(block.first, block.rows, stride, d_m.data, shared.scores + block.first * stride, step.data, m.data,
                              d_scores + block.first * stride, d_step.data, d_cum + block.first);
        tile::multiply_add(block.seen, P, block.rows, tile::Matrix<W>{m, stride}.transposed(), dy_rows, P, dv.data, P);
      });
      store_rows(L, P, dv.data, to_v.at(chunk, h), to_v.token);
      W d_skip_sum = 0;
      for (int64_t j = 0; j < L; ++j) {
        d_cum[j] -= d_step[j] * step[j];
        d_step[j] += dy_v[j] * shared.scores[j * stride + j];
        d_skip_sum += dy_v[j];
      }
      partials.d_skip[index * in.heads + h] = d_skip_sum;
      if (h0) {
        decay_since_start(L, cum.data, since_start.data);
        scale_rows(L, P, since_start.data, dy.data, dy.data);
        std::fill_n(through_h0.data, L * N, W(0));
        tile::multiply_add(L, N, P, tile::Matrix<W>{dy, P}, h0 + (index * in.heads + h) * P * N, N, through_h0.data, N);
        dot_rows(L, N, through_h0.data, shared.c.data, row.data);
        for (int64_t i = 0; i < L; ++i) d_cum[i] += row[i];
        for (int64_t i = 0; i < L * N; ++i) dc[i] += through_h0[i];
      }
      if (d_h0) {
        W* sum = d_h0 + (index * in.heads + h) * P * N;
        std::fill_n(sum, P * N, W(0));
        tile::multiply_add(P, N, L, tile::Matrix<W>{dy, P}.transposed(), shared.c.data, N, sum, N);
      }
      steps_backward(in, chunk, index, h, step.data, d_step.data, d_cum.data, to_dt, partials);
    }

    for_each_block(L, [&](const Block& block) {
      const tile::Matrix<W> d_rows{d_scores + block.first * stride, stride};
      tile::multiply_add(block.rows, N, block.seen, d_rows, shared.b.data, N, dc + block.first * N, N);
      tile::multiply_add(block.seen, N, block.rows, d_rows.transposed(), shared.c + block.first * N, N, db.data, N);
    });
    store_rows(L, N, db.data, to_b.at(chunk, group), to_b.token);
    store_rows(L, N, dc.data, to_c.at(chunk, group), to_c.token);
  });
  partials.add_to(args.gradients);
}

}  // namespace

void launch(Cpu, const SsdStatesForward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { states_forward<T>(args); });
}

void launch(Cpu, const SsdStatesBackward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { states_backward<T>(args); });
}

void launch(Cpu, const SsdOutputsForward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) {
    const Tensor inside = wide(args.y.dtype()) == args.y.dtype() ? args.y : Tensor::empty(args.y.shape(), wide(args.y.dtype()));
    outputs_inside<T>(args, inside);
    if (args.h0)
      add_outputs_of_entering<T>(args, inside);  // waits for h0
    else if (inside.dtype() != args.y.dtype())
      args.y.copy_from(inside);
  });
}

void launch(Cpu, const SsdOutputsBackward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { outputs_backward<T>(args); });
}

}  // namespace ropewalk
