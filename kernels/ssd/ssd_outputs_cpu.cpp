#include "kernels/ssd/ssd_tasks.h"

// y_i = sum_{j <= i} m_ij v_j + d_skip v_i + exp(cum_i) h0 c_i with m_ij = (c_i . b_j) exp(cum_i - cum_j) dt_j
namespace ropewalk {
namespace {

using namespace ssd;

// What the state before the chunk adds to a head: exp(cum_i) and h0 c_i.
template <class T, class Panels>
class Entering {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;

  explicit Entering(const Operands<T>& in)
      : P(in.width), N(in.state), since_start_(in.tokens), product_(kBlock * P), h0_t_(Panels::right_size(N, P)) {}

  void head(int64_t tokens, const double* cum, const W* h0) const {
    vectorized<decay_since_start<W>>(tokens, cum, since_start_.data);
    Panels::right_transposed(N, P, h0, N, h0_t_.data);
  }
  const W* decay(const Block& rows) const { return since_start_ + rows.first; }
  const W* products(const Block& rows, const E* c) const {
    Panels::multiply(rows.tokens, P, N, c, h0_t_.data, product_.data, P);
    return product_;
  }

 private:
  const int64_t P, N;
  const Scratch<W> since_start_, product_;
  const Scratch<E> h0_t_;
};

// y, stored as Y. Without h0 what stems from inside the chunks.
template <class T, class Panels, class Y>
class Outputs {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;
  using Session = typename Panels::Session;

  struct Launch {
    Launch(const SsdOperands& operands, const W* states, const Tensor& outputs)
        : in(operands), c(operands.c), d_skip(operands.d_skip.data<W>()), h0(states), y(outputs) {}

    Operands<T> in;
    Heads<T> c;
    const W *d_skip, *h0;
    Heads<Y> y;
  };

  explicit Outputs(const Launch& launch) : all_(launch) {}

  void run(const SsdChunk& chunk, int64_t index, int64_t group) {
    lay_out_left<Panels>(chunk.length, N, all_.c.at(chunk, group), all_.c.token, c_);
    find_scores<Panels>(chunk.length, N, c_, in_.b.at(chunk, group), in_.b.token, b_t_.data, scores_);
    for (int64_t h = in_.first_head(group); h < in_.first_head(group + 1); ++h) head(chunk, index, h);
  }

 private:
  void head(const SsdChunk& chunk, int64_t index, int64_t h) {
    const T* v = in_.v.at(chunk, h);
    plan(chunk, index, h);
    in_.steps(chunk, h, steps_);
    lay_out_right<Panels>(chunk.length, P, v, in_.v.token, v_);
    if (all_.h0) entering_.head(chunk.length, steps_.cum, all_.h0 + (index * in_.heads + h) * P * N);
    for_each_block(chunk.length, [&](const Block& rows) {
      add_columns(chunk.length, rows);
      ahead_.fetch();
      store(rows, all_.d_skip[h], v + rows.first * in_.v.token, all_.y.at(chunk, h) + rows.first * all_.y.token);
    });
  }

  // What the next head will touch.
  void plan(const SsdChunk& chunk, int64_t index, int64_t h) {
    ahead_.clear();
    if (in_.is_last(h)) return;
    ahead_.plan(chunk.length, P, in_.v.at(chunk, h + 1), in_.v.token);
    if (all_.h0) ahead_.plan(P, N, all_.h0 + (index * in_.heads + h + 1) * P * N, N);
    ahead_.plan(chunk.length, P, all_.y.at(chunk, h + 1), all_.y.token);
    const int64_t blocks = block_count(chunk.length);
    ahead_.deal(3 * blocks * (blocks + 1) / 2 + blocks);
  }

  // sum = m v
  void add_columns(int64_t tokens, const Block& rows) {
    for (int64_t j = 0; j <= rows.index; ++j) {
      const Block columns = block_of(tokens, j);
      find_decay(rows, columns, steps_.cum, m_.data);
      ahead_.fetch();
      vectorized<weigh_scores<W>>(rows.tokens, scores_(rows, columns), steps_.step + columns.first, m_.data);
      Panels::left(rows.tokens, columns.tokens, m_.data, kBlock, m_panels_.data);
      ahead_.fetch();
      const auto multiply = j == 0 ? Panels::multiply : Panels::add;
      multiply(rows.tokens, P, columns.tokens, m_panels_, v_[columns], sum_, P);
      ahead_.fetch();
    }
  }

  void store(const Block& rows, W d_skip, const T* v, Y* y) {
    if (all_.h0)
      vectorized<add_scaled_rows<T, Y>>(rows.tokens, P, sum_.data, d_skip, v, in_.v.token, entering_.decay(rows),
                                        entering_.products(rows, c_[rows]), y, all_.y.token);
    else
      vectorized<add_rows<T, Y>>(rows.tokens, P, sum_.data, d_skip, v, in_.v.token, y, all_.y.token);
  }

  const Launch& all_;
  const Operands<T>& in_ = all_.in;
  const int64_t P = in_.width, N = in_.state;
  const Steps<W> steps_{in_.tokens};
  const Entering<T, Panels> entering_{in_};
  const OfPairs<W> scores_{in_.blocks};
  const Scratch<W> m_{kBlock * kBlock}, sum_{kBlock * P};
  const OfBlocks<E> c_{in_.blocks, Panels::left_size(kBlock, N)}, v_{in_.blocks, Panels::right_size(kBlock, P)};
  const Scratch<E> b_t_{Panels::right_size(N, kBlock)}, m_panels_{Panels::left_size(kBlock, kBlock)};
  FetchAhead ahead_;
};

// y = inside + exp(cum_i) h0 c_i
template <class T, class Panels>
class OutputsOfEntering {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;
  using Session = typename Panels::Session;

  struct Launch {
    Launch(const SsdOutputsForward& args, const Tensor& wide) : in(args.in), c(args.in.c), h0(args.h0.data<W>()), inside(wide), y(args.y) {}

    Operands<T> in;
    Heads<T> c;
    const W* h0;
    Heads<W> inside;
    Heads<T> y;
  };

  explicit OutputsOfEntering(const Launch& launch) : all_(launch) {}

  void run(const SsdChunk& chunk, int64_t index, int64_t group) {
    lay_out_left<Panels>(chunk.length, N, all_.c.at(chunk, group), all_.c.token, c_);
    for (int64_t h = in_.first_head(group); h < in_.first_head(group + 1); ++h) {
      in_.steps(chunk, h, steps_);
      entering_.head(chunk.length, steps_.cum, all_.h0 + (index * in_.heads + h) * P * N);
      for_each_block(chunk.length, [&](const Block& rows) {
        vectorized<add_scaled_to_rows<T>>(rows.tokens, P, all_.inside.at(chunk, h) + rows.first * all_.inside.token, all_.inside.token,
                                          entering_.decay(rows), entering_.products(rows, c_[rows]),
                                          all_.y.at(chunk, h) + rows.first * all_.y.token, all_.y.token);
      });
    }
  }

 private:
  const Launch& all_;
  const Operands<T>& in_ = all_.in;
  const int64_t P = in_.width, N = in_.state;
  const Steps<W> steps_{in_.tokens};
  const Entering<T, Panels> entering_{in_};
  const OfBlocks<E> c_{in_.blocks, Panels::left_size(kBlock, N)};
};

// In one pass over the chunks.
template <class T, class Panels, class Y>
void outputs(const SsdOperands& in, const Wide<T>* h0, const Tensor& y) {
  const typename Outputs<T, Panels, Y>::Launch all(in, h0, y);
  all.in.template run<Outputs<T, Panels, Y>>(all);
}

// In two, the first of which does not need h0 yet.
template <class T, class Panels>
void outputs_before_h0(const SsdOutputsForward& args) {
  using W = Wide<T>;
  const Tensor inside = Tensor::empty(args.y.shape(), dtype_of<W>());
  outputs<T, Panels, W>(args.in, nullptr, inside);
  const typename OutputsOfEntering<T, Panels>::Launch all(args, inside);  // waits for h0
  all.in.template run<OutputsOfEntering<T, Panels>>(all);
}

}  // namespace

void launch(Cpu, const SsdOutputsForward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) {
    with_panels_for<T>(args.in, [&]<class Panels>(Panels) {
      if (args.h0 && args.h0.storage()->pending()) return outputs_before_h0<T, Panels>(args);
      outputs<T, Panels, T>(args.in, args.h0 ? args.h0.data<Wide<T>>() : nullptr, args.y);
    });
  });
}

}  // namespace ropewalk
