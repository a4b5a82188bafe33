#include "kernels/ssd/ssd_tasks.h"

// The way back through
//   y_i = sum_{j <= i} m_ij v_j + d_skip v_i + exp(cum_i) h0 c_i   with m_ij = (c_i . b_j) exp(cum_i - cum_j) dt_j
namespace ropewalk {
namespace {

using namespace ssd;

template <class T, class Panels>
class OutputsBackward {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;
  using Session = typename Panels::Session;

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
    ParameterPartials partials;
  };

  explicit OutputsBackward(const Launch& launch) : all_(launch) {
    d_m_.zero();  // what stands in it for tokens that a last block lacks is multiplied by zero: it must be finite
  }

  void run(const SsdChunk& chunk, int64_t index, int64_t group) {
    const T *b = in_.b.at(chunk, group), *c = all_.c.at(chunk, group);
    lay_out_left<Panels>(chunk.length, N, c, all_.c.token, c_left_);
    find_scores<Panels>(chunk.length, N, c_left_, b, in_.b.token, b_t_.data, scores_);
    if (all_.d_h0) Panels::right(chunk.length, N, c, all_.c.token, c_.data);
    d_scores_.zero();
    dc_.zero();
    for (int64_t h = in_.first_head(group); h < in_.first_head(group + 1); ++h) head(chunk, index, group, h);
    scores_backward(chunk.length, b, c);
    vectorized<store_rows<T>>(chunk.length, N, db_.data, all_.db.at(chunk, group), all_.db.token);
    vectorized<store_rows<T>>(chunk.length, N, dc_.data, all_.dc.at(chunk, group), all_.dc.token);
  }

 private:
  // What a head's part of a chunk is found by.
  struct Head {
    int64_t tokens;
    const T *v, *dy;
    T* dv;
    W skip;
  };

  void head(const SsdChunk& chunk, int64_t index, int64_t group, int64_t h) {
    const Head head{chunk.length, in_.v.at(chunk, h), all_.dy.at(chunk, h), all_.dv.at(chunk, h), all_.d_skip[h]};
    plan(chunk, index, h);
    in_.steps(chunk, h, steps_);
    lay_out_right_transposed<Panels>(chunk.length, P, head.v, in_.v.token, v_t_);
    lay_out_left<Panels>(chunk.length, P, head.dy, all_.dy.token, dy_left_);
    lay_out_right<Panels>(chunk.length, P, head.dy, all_.dy.token, dy_right_);
    d_step_.zero();
    d_a_.zero();
    double d_skip = 0;
    for_each_block(chunk.length, [&](const Block& columns) { d_skip += columns_backward(head, columns); });
    all_.partials.d_skip[all_.partials.at(index, h)] = d_skip;
    if (all_.h0) entering_backward(chunk, (index * in_.heads + h) * P * N, all_.c.at(chunk, group), head.dy);
    steps_backward(in_, chunk, index, h, steps_, d_step_.data, d_a_.data, all_.d_raw, all_.partials);
  }

  // What the next head will touch.
  void plan(const SsdChunk& chunk, int64_t index, int64_t h) {
    ahead_.clear();
    if (in_.is_last(h)) return;
    const int64_t L = chunk.length, at = (index * in_.heads + h + 1) * P * N, blocks = block_count(L);
    ahead_.plan(L, P, in_.v.at(chunk, h + 1), in_.v.token);
    ahead_.plan(L, P, all_.dy.at(chunk, h + 1), all_.dy.token);
    ahead_.plan(L, P, all_.dv.at(chunk, h + 1), all_.dv.token);
    if (all_.h0) ahead_.plan(P, N, all_.h0 + at, N);
    if (all_.d_h0) ahead_.plan(P, N, all_.d_h0 + at, N);
    ahead_.deal(5 * blocks * (blocks + 1) / 2 + 2 * blocks);
  }

  // Through m v and d_skip v for a block of v. Rows come from the last on: see weigh_scores_backward. Gives the block's share of d_skip's
  // gradient.
  double columns_backward(const Head& head, const Block& columns) {
    double d_skip = 0;
    const int64_t last = block_count(head.tokens) - 1;
    for (int64_t i = last; i >= columns.index; --i) {
      const Block rows = block_of(head.tokens, i);
      const bool diagonal = i == columns.index;
      Panels::multiply(rows.tokens, columns.tokens, P, dy_left_[rows], v_t_[columns], d_m_.data, kBlock);
      ahead_.fetch();
      if (diagonal)
        for (int64_t j = 0; j < columns.tokens; ++j) d_skip += static_cast<double>(d_m_[j * kBlock + j]);
      find_decay(rows, columns, steps_.cum.data, m_.data);
      ahead_.fetch();
      vectorized<weigh_scores_backward<W>>(rows.tokens, diagonal, d_m_.data, scores_(rows, columns), steps_.step + columns.first, m_.data,
                                           d_scores_(rows, columns), d_step_ + columns.first, d_a_ + rows.first);
      ahead_.fetch();
      Panels::left_transposed(columns.tokens, rows.tokens, m_.data, kBlock, m_t_.data);
      ahead_.fetch();
      const auto multiply = i == last ? Panels::multiply : Panels::add;
      multiply(columns.tokens, P, rows.tokens, m_t_, dy_right_[rows], dv_, P);
      ahead_.fetch();
    }
    vectorized<add_rows<T, T>>(columns.tokens, P, dv_.data, head.skip, head.dy + columns.first * all_.dy.token, all_.dy.token,
                               head.dv + columns.first * all_.dv.token, all_.dv.token);
    return d_skip;
  }

  // Through exp(cum_i) h0 c_i; `at` is where the states of the chunk and head begin.
  void entering_backward(const SsdChunk& chunk, int64_t at, const T* c, const T* dy) {
    const int64_t L = chunk.length;
    vectorized<decay_since_start<W>>(L, steps_.cum.data, since_start_.data);
    Panels::right(P, N, all_.h0 + at, N, h0_.data);
    for_each_block(L, [&](const Block& rows) {
      Panels::multiply(rows.tokens, N, P, dy_left_[rows], h0_.data, d_state_.data, N);
      ahead_.fetch();
      vectorized<ssd::entering_backward<T>>(rows.tokens, N, d_state_.data, since_start_ + rows.first, c + rows.first * all_.c.token,
                                            all_.c.token, dc_ + rows.first * N, d_cum_ + rows.first);
      ahead_.fetch();
    });
    W sum = 0;
    for (int64_t i = L; i-- > 0;) d_a_[i] += sum += d_cum_[i];
    if (!all_.d_h0) return;
    vectorized<scale_rows<T>>(L, P, since_start_.data, dy, all_.dy.token, decayed_.data);
    Panels::left_transposed(P, L, decayed_.data, P, decayed_t_.data);
    Panels::multiply(P, N, L, decayed_t_.data, c_.data, all_.d_h0 + at, N);
  }

  // b and c get what the scores owe them, of all heads at once.
  void scores_backward(int64_t tokens, const T* b, const T* c) const {
    lay_out_right<Panels>(tokens, N, b, in_.b.token, b_blocks_);
    lay_out_right<Panels>(tokens, N, c, all_.c.token, c_blocks_);
    db_.zero();
    for_each_block(tokens, [&](const Block& rows) {
      for (int64_t j = 0; j <= rows.index; ++j) {
        const Block columns = block_of(tokens, j);
        const W* d_scores = d_scores_(rows, columns);
        Panels::left(rows.tokens, columns.tokens, d_scores, kBlock, m_t_.data);
        Panels::add(rows.tokens, N, columns.tokens, m_t_.data, b_blocks_[columns], dc_ + rows.first * N, N);
        Panels::left_transposed(columns.tokens, rows.tokens, d_scores, kBlock, m_t_.data);
        Panels::add(columns.tokens, N, rows.tokens, m_t_.data, c_blocks_[rows], db_ + columns.first * N, N);
      }
    });
  }

  const Launch& all_;
  const Operands<T>& in_ = all_.in;
  const int64_t P = in_.width, N = in_.state, tokens_ = in_.tokens, blocks_ = in_.blocks;
  // Of the group.
  const OfPairs<W> scores_{blocks_}, d_scores_{blocks_};
  const Scratch<W> db_{tokens_ * N}, dc_{tokens_ * N};
  const Scratch<E> b_t_{Panels::right_size(N, kBlock)}, c_{Panels::right_size(tokens_, N)};
  const OfBlocks<E> c_left_{blocks_, Panels::left_size(kBlock, N)};
  const OfBlocks<E> b_blocks_{blocks_, Panels::right_size(kBlock, N)}, c_blocks_{blocks_, Panels::right_size(kBlock, N)};
  // Of the head.
  const Steps<W> steps_{tokens_};
  const Scratch<W> d_step_{tokens_}, d_a_{tokens_}, since_start_{tokens_}, d_cum_{tokens_}, decayed_{tokens_ * P};
  const OfBlocks<E> v_t_{blocks_, Panels::right_size(P, kBlock)};
  const OfBlocks<E> dy_left_{blocks_, Panels::left_size(kBlock, P)}, dy_right_{blocks_, Panels::right_size(kBlock, P)};
  const Scratch<E> h0_{Panels::right_size(P, N)}, decayed_t_{Panels::left_size(P, tokens_)};
  // Of a block or a pair of blocks.
  const Scratch<W> d_m_{kBlock * kBlock}, m_{kBlock * kBlock}, dv_{kBlock * P}, d_state_{kBlock * N};
  const Scratch<E> m_t_{Panels::left_size(kBlock, kBlock)};
  FetchAhead ahead_;
};

}  // namespace

void launch(Cpu, const SsdOutputsBackward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) {
    with_panels_for<T>(args.in, [&]<class Panels>(Panels) {
      const typename OutputsBackward<T, Panels>::Launch all(args);
      all.in.template run<OutputsBackward<T, Panels>>(all);
      all.partials.template add_to<Wide<T>>(args.gradients);
    });
  });
}

}  // namespace ropewalk
