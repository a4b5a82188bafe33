#include "kernels/ssd/ssd_tasks.h"

// local = sum_j weight_j v_j b_j^T with weight_j = exp(cum_last - cum_j) dt_j, decay = exp(cum_last)
namespace ropewalk {
namespace {

using namespace ssd;

// Weights of a head's tokens in the state that its chunk leaves.
template <class W>
struct Weights {
  explicit Weights(int64_t tokens) : until_end(tokens), weight(tokens) {}

  void find(int64_t tokens, const Steps<W>& steps) const {
    vectorized<weights_until_end<W>>(tokens, steps.cum[tokens - 1], steps.cum.data, steps.step.data, until_end.data, weight.data);
  }

  Scratch<W> until_end, weight;
};

template <class T, class Panels>
class States {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;
  using Session = typename Panels::Session;

  struct Launch {
    explicit Launch(const SsdStatesForward& args) : in(args.in), decay(args.decay.data<W>()), local(args.local.data<W>()) {}

    Operands<T> in;
    W *decay, *local;
  };

  explicit States(const Launch& launch) : all_(launch) {}

  void run(const SsdChunk& chunk, int64_t index, int64_t group) {
    Panels::right(chunk.length, N, in_.b.at(chunk, group), in_.b.token, b_.data);
    for (int64_t h = in_.first_head(group); h < in_.first_head(group + 1); ++h) head(chunk, index * in_.heads + h, h);
  }

 private:
  void head(const SsdChunk& chunk, int64_t at, int64_t h) {
    const int64_t L = chunk.length;
    const T* v = in_.v.at(chunk, h);
    plan(chunk, at, h);
    in_.steps(chunk, h, steps_);
    ahead_.fetch();
    weights_.find(L, steps_);
    ahead_.fetch();
    vectorized<scale_rows<T>>(L, P, weights_.weight.data, v, in_.v.token, weighted_.data);
    ahead_.fetch();
    Panels::left_transposed(P, L, weighted_.data, P, weighted_t_.data);
    ahead_.fetch();
    Panels::multiply(P, N, L, weighted_t_.data, b_.data, all_.local + at * P * N, N);
    ahead_.fetch();
    all_.decay[at] = static_cast<W>(std::exp(steps_.cum[L - 1]));
  }

  // What the next head will touch.
  void plan(const SsdChunk& chunk, int64_t at, int64_t h) {
    ahead_.clear();
    if (in_.is_last(h)) return;
    ahead_.plan(chunk.length, P, in_.v.at(chunk, h + 1), in_.v.token);
    ahead_.plan(P, N, all_.local + (at + 1) * P * N, N);
    ahead_.deal(5);
  }

  const Launch& all_;
  const Operands<T>& in_ = all_.in;
  const int64_t P = in_.width, N = in_.state;
  const Steps<W> steps_{in_.tokens};
  const Weights<W> weights_{in_.tokens};
  const Scratch<W> weighted_{in_.tokens * P};
  const Scratch<E> b_{Panels::right_size(in_.tokens, N)}, weighted_t_{Panels::left_size(P, in_.tokens)};
  FetchAhead ahead_;
};

template <class T, class Panels>
class StatesBackward {
 public:
  using W = Wide<T>;
  using E = typename Panels::Element;
  using Session = typename Panels::Session;

  struct Launch {
    explicit Launch(const SsdStatesBackward& args)
        : in(args.in),
          dv(args.gradients.v),
          d_raw(args.gradients.dt),
          db(args.gradients.b),
          d_decay(args.d_decay.data<W>()),
          d_local(args.d_local.data<W>()),
          partials(static_cast<int64_t>(in.chunks.size()), in.heads) {}

    Operands<T> in;
    Heads<T> dv, d_raw, db;
    const W *d_decay, *d_local;
    ParameterPartials partials;
  };

  explicit StatesBackward(const Launch& launch) : all_(launch) {}

  void run(const SsdChunk& chunk, int64_t index, int64_t group) {
    Panels::left(chunk.length, N, in_.b.at(chunk, group), in_.b.token, b_.data);
    db_.zero();
    for (int64_t h = in_.first_head(group); h < in_.first_head(group + 1); ++h) head(chunk, index, h);
    vectorized<store_rows<T>>(chunk.length, N, db_.data, all_.db.at(chunk, group), all_.db.token);
  }

 private:
  void head(const SsdChunk& chunk, int64_t index, int64_t h) {
    const int64_t L = chunk.length;
    const T* v = in_.v.at(chunk, h);
    const W* d_local = all_.d_local + (index * in_.heads + h) * P * N;
    plan(chunk, d_local, h);
    in_.steps(chunk, h, steps_);
    ahead_.fetch();
    weights_.find(L, steps_);
    ahead_.fetch();

    Panels::right_transposed(N, P, d_local, N, d_local_t_.data);
    ahead_.fetch();
    Panels::multiply(L, P, N, b_.data, d_local_t_.data, d_weighted_.data, P);
    ahead_.fetch();
    vectorized<weigh_rows_backward<T>>(L, P, d_weighted_.data, weights_.weight.data, v, in_.v.token, all_.dv.at(chunk, h), all_.dv.token,
                                       weighted_.data, d_weight_.data);
    ahead_.fetch();
    Panels::left(L, P, weighted_.data, P, weighted_panels_.data);
    ahead_.fetch();
    Panels::right(P, N, d_local, N, d_local_.data);
    ahead_.fetch();
    Panels::add(L, N, P, weighted_panels_.data, d_local_.data, db_.data, N);
    ahead_.fetch();

    weights_backward(L, all_.d_decay[index * in_.heads + h]);
    steps_backward(in_, chunk, index, h, steps_, d_weight_.data, d_a_.data, all_.d_raw, all_.partials);
  }

  // What the next head will touch.
  void plan(const SsdChunk& chunk, const W* d_local, int64_t h) {
    ahead_.clear();
    if (in_.is_last(h)) return;
    ahead_.plan(P, N, d_local + P * N, N);
    ahead_.plan(chunk.length, P, in_.v.at(chunk, h + 1), in_.v.token);
    ahead_.plan(chunk.length, P, all_.dv.at(chunk, h + 1), all_.dv.token);
    ahead_.deal(8);
  }

  // weight_j = exp(a_{j+1} + ... + a_last) dt_j, so that a_t is owed what all weights before t are, and what the decay is. d_weight becomes
  // what dt is owed.
  void weights_backward(int64_t tokens, W d_decay) const {
    W sum = d_decay * static_cast<W>(std::exp(steps_.cum[tokens - 1]));
    for (int64_t j = 0; j < tokens; ++j) {
      d_a_[j] = sum;
      sum += weights_.weight[j] * d_weight_[j];
      d_weight_[j] *= weights_.until_end[j];
    }
  }

  const Launch& all_;
  const Operands<T>& in_ = all_.in;
  const int64_t P = in_.width, N = in_.state;
  const Steps<W> steps_{in_.tokens};
  const Weights<W> weights_{in_.tokens};
  const Scratch<W> weighted_{in_.tokens * P}, d_weighted_{in_.tokens * P}, db_{in_.tokens * N}, d_weight_{in_.tokens}, d_a_{in_.tokens};
  const Scratch<E> b_{Panels::left_size(in_.tokens, N)}, weighted_panels_{Panels::left_size(in_.tokens, P)};
  const Scratch<E> d_local_{Panels::right_size(P, N)}, d_local_t_{Panels::right_size(N, P)};
  FetchAhead ahead_;
};

}  // namespace

void launch(Cpu, const SsdStatesForward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) {
    with_panels_for<T>(args.in, [&]<class Panels>(Panels) {
      const typename States<T, Panels>::Launch all(args);
      all.in.template run<States<T, Panels>>(all);
    });
  });
}

void launch(Cpu, const SsdStatesBackward& args) {
  dispatch_float(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) {
    with_panels_for<T>(args.in, [&]<class Panels>(Panels) {
      const typename StatesBackward<T, Panels>::Launch all(args);
      all.in.template run<StatesBackward<T, Panels>>(all);
      all.partials.template add_to<Wide<T>>(args.gradients);
    });
  });
}

}  // namespace ropewalk
