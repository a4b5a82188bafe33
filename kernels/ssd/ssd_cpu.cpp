#include <cmath>
#include <utility>

#include "kernels/matmul/products.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd/ssd_leaves.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/scratch.h"

// A task is one chunk of one group of heads; its operands are copied into scratch of the wide type that stays in the second cache.
// Letters below: L tokens of the chunk, P width of a head, N size of the state, cum_i = sum_{t <= i} a_t inside the chunk.
namespace ropewalk {
namespace {

using namespace ssd;

int64_t padded(int64_t tokens) { return (tokens + kBlock - 1) / kBlock * kBlock; }

// Tokens and heads of a [B, S, heads] or [B, S, heads, width] tensor.
template <class T>
struct Heads {
  explicit Heads(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
  T* at(const SsdChunk& chunk, int64_t h) const { return data + chunk.row * row + chunk.begin * token + h * head; }

  T* data;
  int64_t row, token, head;
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
        dt_low(static_cast<W>(in.dt_low)),
        dt_high(static_cast<W>(in.dt_high)),
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
    vectorized<softplus_row<W>>(chunk.length, step);
    for (int64_t i = 0; i < chunk.length; ++i) step[i] = std::min(std::max(step[i], dt_low), dt_high);
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
  W dt_low, dt_high;
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

// The way back through cum, dt, its limits (what they hold gets no gradient) and softplus. Consumes d_step, what dt itself is owed, and
// d_cum.
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
  vectorized<softplus_backward_row<W>>(chunk.length, raw, d_step);
  for (int64_t i = 0; i < chunk.length; ++i) d_step[i] = step[i] > in.dt_low && step[i] < in.dt_high ? d_step[i] : W(0);
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
    tile::Products<T> products;
    const Scratch<double> cum(padded(L));
    const Scratch<W> b(L * N), v(L * P), step(padded(L)), until_end(L);
    vectorized<load_rows<T>>(L, N, in.b.at(chunk, group), in.b.token, b.data);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      vectorized<decay_until<W>>(L, cum[L - 1], cum.data, until_end.data);
      for (int64_t j = 0; j < L; ++j) until_end[j] *= step[j];
      vectorized<load_rows<T>>(L, P, in.v.at(chunk, h), in.v.token, v.data);
      vectorized<scale_rows<W>>(L, P, until_end.data, v.data, v.data);
      W* sum = local + (index * in.heads + h) * P * N;
      products.multiply(P, N, L, tile::Matrix<W>{v, P}.transposed(), b.data, N, sum, N);
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
    tile::Products<T> products;
    const Scratch<double> cum(padded(L));
    const Scratch<W> b(L * N), v(L * P), step(padded(L)), until_end(L), weight(L), d_weight(L), d_step(L), d_cum(L);
    const Scratch<W> d_local_t(N * P), d_weighted(L * P), d_b(L * N);
    vectorized<load_rows<T>>(L, N, in.b.at(chunk, group), in.b.token, b.data);
    d_b.zero();
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      const W* d_sum = d_local + (index * in.heads + h) * P * N;
      in.steps(chunk, h, step, cum);
      vectorized<decay_until<W>>(L, cum[L - 1], cum.data, until_end.data);
      for (int64_t j = 0; j < L; ++j) weight[j] = until_end[j] * step[j];
      vectorized<load_rows<T>>(L, P, in.v.at(chunk, h), in.v.token, v.data);

      // local = sum_j (weight_j v_j) b_j^T
      vectorized<transpose_state<W>>(P, N, d_sum, d_local_t.data);
      products.multiply(L, P, N, tile::Matrix<W>{b, N}, d_local_t.data, P, d_weighted.data, P);
      vectorized<dot_rows<W>>(L, P, v.data, d_weighted.data, d_weight.data);
      vectorized<scale_rows<W>>(L, P, weight.data, d_weighted.data, d_weighted.data);
      vectorized<store_rows<T>>(L, P, d_weighted.data, dv.at(chunk, h), dv.token);
      vectorized<scale_rows<W>>(L, P, weight.data, v.data, v.data);
      products.add(L, N, P, tile::Matrix<W>{v, P}, d_sum, N, d_b.data, N);

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
    vectorized<store_rows<T>>(L, N, d_b.data, db.at(chunk, group), db.token);
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

  GroupScores(const Operands<T>& in, const Heads<T>& c_heads, const SsdChunk& chunk, int64_t group, tile::Products<T>& products)
      : stride(padded(chunk.length)), b(chunk.length * in.state), c(chunk.length * in.state), scores(chunk.length * stride) {
    const Scratch<W> b_t(in.state * stride);
    vectorized<load_rows<T>>(chunk.length, in.state, in.b.at(chunk, group), in.b.token, b.data);
    vectorized<load_rows<T>>(chunk.length, in.state, c_heads.at(chunk, group), c_heads.token, c.data);
    transpose_padded(chunk.length, in.state, b.data, b_t.data);
    scores.zero();
    for_each_block(chunk.length, [&](const Block& block) {
      products.add(block.rows, block.columns, in.state, tile::Matrix<W>{c + block.first * in.state, in.state}, b_t.data, stride,
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
    tile::Products<T> products;
    const GroupScores<T> shared(in, c, chunk, group, products);
    const int64_t stride = shared.stride;
    const Scratch<double> cum(stride);
    const Scratch<W> v(L * P), step(stride), before(stride), m(kBlock * stride), sum(kBlock * P), skip(kBlock);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      vectorized<load_rows<T>>(L, P, in.v.at(chunk, h), in.v.token, v.data);
      std::fill_n(skip.data, kBlock, d_skip[h]);
      for_each_block(L, [&](const Block& block) {
        vectorized<decay_block<W>>(block.first, block.rows, cum.data, before.data, m.data, stride);
        vectorized<weigh_scores<W>>(block.rows, block.columns, stride, shared.scores + block.first * stride, step.data, m.data);
        vectorized<scale_rows<W>>(block.rows, P, skip.data, v + block.first * P, sum.data);
        products.add(block.rows, P, block.seen, tile::Matrix<W>{m, stride}, v.data, P, sum.data, P);
        vectorized<store_rows<W>>(block.rows, P, sum.data, y.at(chunk, h) + block.first * y.token, y.token);
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
    tile::Products<T> products;
    const Scratch<double> cum(padded(L));
    const Scratch<W> c(L * N), step(padded(L)), since_start(L), h0_t(N * P), sum(L * P);
    vectorized<load_rows<T>>(L, N, c_heads.at(chunk, group), c_heads.token, c.data);
    for (int64_t h = in.first_head(group); h < in.first_head(group + 1); ++h) {
      in.steps(chunk, h, step, cum);
      vectorized<decay_since_start<W>>(L, cum.data, since_start.data);
      vectorized<transpose_state<W>>(P, N, h0 + (index * in.heads + h) * P * N, h0_t.data);
      products.multiply(L, P, N, tile::Matrix<W>{c, N}, h0_t.data, P, sum.data, P);
      vectorized<add_scaled_rows<T>>(L, P, since_start.data, sum.data, y_inside.at(chunk, h), y.at(chunk, h), y.token);
    }
  });
}

// One task of backward: a chunk of a group, whose heads are taken in order.
template <class T>
class OutputsBackward {
 public:
  using W = Wide<T>;

  // What all tasks share.
  struct Launch {
    explicit Launch(const SsdOutputsBackward& args)
        : in(args.in),
          c(args.in.c),
          dy(args.dy),
          dv(args.gradients.v),
          d_raw(args.gradients.dt),
          db(args.gradients.b),
          dc(args.gradients.c),
          d_skip(args.in.d_skip.data<W>()),
          h0(args.h0 ? args.h0.data<W>() : nullptr),
          d_h0(args.d_h0 ? args.d_h0.data<W>() : nullptr),
          partials(static_cast<int64_t>(in.chunks.size()), in.heads) {}

    Operands<T> in;
    Heads<T> c, dy, dv, d_raw, db, dc;
    const W *d_skip, *h0;
    W* d_h0;
    ParameterPartials<W> partials;
  };

  OutputsBackward(const Launch& launch, const SsdChunk& chunk, int64_t index, int64_t group)
      : all_(launch), chunk_(chunk), index_(index), group_(group), shared_(launch.in, launch.c, chunk, group, products_) {
    d_scores_.zero();
    db_.zero();
    dc_.zero();
  }

  void head(int64_t h) {
    all_.in.steps(chunk_, h, step_, cum_);
    vectorized<load_rows<T>>(L, P, all_.in.v.at(chunk_, h), all_.in.v.token, v_.data);
    vectorized<load_rows<T>>(L, P, all_.dy.at(chunk_, h), all_.dy.token, dy_.data);
    d_step_.zero();
    d_cum_.zero();
    inside(h);
    if (all_.h0) entering(h);
    steps_backward(all_.in, chunk_, index_, h, step_.data, d_step_.data, d_cum_.data, all_.d_raw, all_.partials);
  }

  // b and c get what the scores owe them once for all heads.
  void finish() {
    for_each_block(L, [&](const Block& block) {
      const tile::Matrix<W> d_rows{d_scores_ + block.first * stride_, stride_};
      products_.add(block.rows, N, block.seen, d_rows, shared_.b.data, N, dc_ + block.first * N, N);
      products_.add(block.seen, N, block.rows, d_rows.transposed(), shared_.c + block.first * N, N, db_.data, N);
    });
    vectorized<store_rows<T>>(L, N, db_.data, all_.db.at(chunk_, group_), all_.db.token);
    vectorized<store_rows<T>>(L, N, dc_.data, all_.dc.at(chunk_, group_), all_.dc.token);
  }

 private:
  // y_i = sum_{j <= i} m_ij v_j + d_skip v_i with m_ij = scores_ij exp(cum_i - cum_j) dt_j
  void inside(int64_t h) {
    transpose_padded(L, P, v_.data, v_t_.data);
    std::fill_n(skip_.data, L, all_.d_skip[h]);
    vectorized<scale_rows<W>>(L, P, skip_.data, dy_.data, dv_.data);
    for_each_block(L, [&](const Block& block) {
      const W* dy_rows = dy_ + block.first * P;
      products_.multiply(block.rows, block.columns, P, tile::Matrix<W>{dy_rows, P}, v_t_.data, stride_, d_m_.data, stride_);
      // m_ii = scores_ii dt_i, whatever cum is: the diagonal's share of d_cum would only cancel. The rest of it comes below.
      for (int64_t i = 0; i < block.rows; ++i) dy_v_[block.first + i] = std::exchange(d_m_[i * stride_ + block.first + i], W(0));
      vectorized<decay_block<W>>(block.first, block.rows, cum_.data, before_.data, m_.data, stride_);
      vectorized<weigh_scores_backward<W>>(block.rows, block.columns, stride_, d_m_.data, shared_.scores + block.first * stride_,
                                           step_.data, m_.data, d_scores_ + block.first * stride_, d_step_.data, d_cum_ + block.first);
      products_.add(block.seen, P, block.rows, tile::Matrix<W>{m_, stride_}.transposed(), dy_rows, P, dv_.data, P);
    });
    vectorized<store_rows<T>>(L, P, dv_.data, all_.dv.at(chunk_, h), all_.dv.token);
    W d_skip = 0;
    for (int64_t j = 0; j < L; ++j) {
      d_cum_[j] -= d_step_[j] * step_[j];
      d_step_[j] += dy_v_[j] * shared_.scores[j * stride_ + j];
      d_scores_[j * stride_ + j] += dy_v_[j] * step_[j];
      d_skip += dy_v_[j];
    }
    all_.partials.d_skip[index_ * all_.in.heads + h] = d_skip;
  }

  // y_i += exp(cum_i) h0 c_i
  void entering(int64_t h) {
    const int64_t at = (index_ * all_.in.heads + h) * P * N;
    vectorized<decay_since_start<W>>(L, cum_.data, since_start_.data);
    vectorized<scale_rows<W>>(L, P, since_start_.data, dy_.data, dy_.data);
    products_.multiply(L, N, P, tile::Matrix<W>{dy_, P}, all_.h0 + at, N, d_state_.data, N);
    vectorized<entering_backward<W>>(L, N, d_state_.data, shared_.c.data, dc_.data, d_cum_.data);
    if (!all_.d_h0) return;
    products_.multiply(P, N, L, tile::Matrix<W>{dy_, P}.transposed(), shared_.c.data, N, all_.d_h0 + at, N);
  }

  const Launch& all_;
  const SsdChunk& chunk_;
  const int64_t index_, group_;
  tile::Products<T> products_;
  const GroupScores<T> shared_;
  const int64_t L = chunk_.length, P = all_.in.width, N = all_.in.state, stride_ = shared_.stride;
  const Scratch<double> cum_{stride_};
  const Scratch<W> step_{stride_}, before_{stride_}, since_start_{L}, skip_{L}, dy_v_{L}, d_step_{stride_}, d_cum_{stride_};
  const Scratch<W> v_{L * P}, v_t_{P * stride_}, dy_{L * P}, dv_{L * P}, m_{kBlock * stride_}, d_m_{kBlock * stride_}, d_state_{L * N};
  const Scratch<W> d_scores_{L * stride_}, db_{L * N}, dc_{L * N};
};

template <class T>
void outputs_backward(const SsdOutputsBackward& args) {
  const typename OutputsBackward<T>::Launch all(args);
  all.in.for_each_group([&](const SsdChunk& chunk, int64_t index, int64_t group) {
    OutputsBackward<T> task(all, chunk, index, group);
    for (int64_t h = all.in.first_head(group); h < all.in.first_head(group + 1); ++h) task.head(h);
    task.finish();
  });
  all.partials.add_to(args.gradients);
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
