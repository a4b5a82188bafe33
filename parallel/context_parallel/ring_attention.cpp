#include "parallel/context_parallel/ring_attention.h"

#include <utility>

#include "parallel/context_parallel/spans.h"

namespace ropewalk {
namespace {

constexpr int kKeys = 0, kValues = 1;  // of a block [2, B, S, K, P]

// Who sees what of whose block. A block is at each step with one rank; at step 0 with its owner.
class Ring {
 public:
  Ring(const Context& ctx, const std::optional<int64_t>& window) : group_(ctx.cp.group), visits_(ctx.layout().runs_of.size()) {
    const std::vector<Runs>& runs_of = ctx.layout().runs_of;
    for (int step = 0; step < steps(); ++step) spans_.push_back(spans_of(ctx.layout().runs, runs_of[owner(step)], window));
    for (int rank = 0; rank < steps(); ++rank)
      for (int step = 1; step < steps(); ++step)
        if (!spans_of(runs_of[(rank + step) % steps()], runs_of[rank], window).empty()) visits_[rank].add(step);
  }

  const Group& group() const { return group_; }
  int steps() const { return group_.size(); }
  int from_here(int distance) const { return (group_.rank() + distance + steps()) % steps(); }
  // Of the block that this rank has at a step.
  int owner(int step) const { return from_here(-step); }
  const Spans& spans(int step) const { return spans_[step]; }  // what this rank's queries see of it
  // The steps at which the first and the last rank besides its owner that see the block have it; 0: nobody sees it.
  struct Visits {
    int first = 0, last = 0;
    void add(int step) {
      if (first == 0) first = step;
      last = step;
    }
  };
  const Visits& visits(int step) const { return visits_[owner(step)]; }

 private:
  Group group_;
  std::vector<Spans> spans_;    // by step
  std::vector<Visits> visits_;  // by owner
};

// The blocks' way round.
class BlockTurn {
 public:
  BlockTurn(const Ring& ring, const Tensor& own, const char* label)
      : ring_(ring), next_(own), shape_(own.shape()), dtype_(own.dtype()), label_(label) {}

  // The step's block, sent on from here; the next one is under way from now on. Empty where none comes.
  Tensor begin(int step) {
    const Tensor block = std::exchange(next_, {});
    sent_.wait();  // else blocks would gather here where the next rank is slower
    if (step + 1 < ring_.steps() && step + 1 <= ring_.visits(step + 1).last)
      next_ = ring_.group().receive(shape_, dtype_, ring_.from_here(-1), label_);
    if (step < ring_.visits(step).last) sent_ = ring_.group().send(block, ring_.from_here(1), label_);
    return block;
  }

 private:
  const Ring& ring_;
  Tensor next_;
  Shape shape_;
  DType dtype_;
  const char* label_;
  Work sent_;
};

// The way of the sums of their gradients: a step behind, and home.
class GradientTurn {
 public:
  GradientTurn(const Ring& ring, const Tensor& own) : ring_(ring), shape_(own.shape()), dtype_(wide(own.dtype())) {}

  // What the ranks before this one have found for the step's block, under way; empty where none found anything.
  Tensor begin(int step) {
    const Ring::Visits& visits = ring_.visits(step);
    const Tensor before = step > visits.first && step <= visits.last ? receive(ring_.from_here(-1)) : Tensor();
    if (step > 0 && step == ring_.visits(0).last) home_ = receive(ring_.from_here(step));
    return before;
  }
  void end(int step, const Tensor& sum) {
    const Ring::Visits& visits = ring_.visits(step);
    if (step < visits.first || step > visits.last) return;
    sent_.wait();
    sent_ = ring_.group().send(sum, step < visits.last ? ring_.from_here(1) : ring_.owner(step), kLabel);
  }
  // Of this rank's own block, what the others have found; empty where nobody else sees it.
  const Tensor& home() const { return home_; }

 private:
  static constexpr const char* kLabel = "ring_attention.return";
  Tensor receive(int from) const { return ring_.group().receive(shape_, dtype_, from, kLabel); }

  const Ring& ring_;
  Shape shape_;
  DType dtype_;
  Tensor home_;
  Work sent_;
};

Tensor block_of(const Tensor& k, const Tensor& v) {
  const Tensor block = Tensor::empty({2, k.dim(0), k.dim(1), k.dim(2), k.dim(3)}, k.dtype(), k.device());
  block.select(0, kKeys).copy_from(k);
  block.select(0, kValues).copy_from(v);
  return block;
}

Tensor wide_like(const Tensor& x) { return Tensor::empty(x.shape(), wide(x.dtype()), x.device()); }

struct RingAttention {
  Tensor q, own;  // [B, S, H, P]; this rank's block
  AttentionOptions options;
  Ring ring;

  // y and the log-sum-exp.
  Tensors forward() const;
  void backward(Backprop& b, const Tensor& y, const Tensor& lse) const;
};

Tensors RingAttention::forward() const {
  const Tensor y = wide_like(q), lse = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, y.dtype(), y.device());
  BlockTurn blocks(ring, own, "ring_attention");
  for (int step = 0; step < ring.steps(); ++step) {
    const Tensor block = blocks.begin(step);
    if (!ring.spans(step).empty())
      launch(y.device(), AttentionForward{.y = y,
                                          .lse = lse,
                                          .q = q,
                                          .k = block.select(0, kKeys),
                                          .v = block.select(0, kValues),
                                          .spans = ring.spans(step),
                                          .options = options,
                                          .merge = step > 0});
  }
  return {y.to(q.dtype()), lse};
}

struct BackwardStep {
  const RingAttention& attention;
  Tensor dy, y, lse, dq;
  bool keys_wanted;

  // Adds to dq; returns the gradients of the step's block, in the wide type.
  Tensor run(int step, const Tensor& block) const {
    const Tensor found = keys_wanted ? wide_like(block) : Tensor();
    launch(y.device(), AttentionBackward{.dq = dq,
                                         .dk = found ? found.select(0, kKeys) : Tensor(),
                                         .dv = found ? found.select(0, kValues) : Tensor(),
                                         .dy = dy,
                                         .q = attention.q,
                                         .k = block.select(0, kKeys),
                                         .v = block.select(0, kValues),
                                         .y = y,
                                         .lse = lse,
                                         .spans = attention.ring.spans(step),
                                         .options = attention.options,
                                         .merge = step > 0});
    return found;
  }
};

// Between two ranks, receives are posted in the order of the sends: a block's gradients, then the block after it.
void RingAttention::backward(Backprop& b, const Tensor& y, const Tensor& lse) const {
  const bool keys_wanted = b.wanted(1) || b.wanted(2);
  const Tensor dq = b.wanted(0) ? wide_like(q) : Tensor();
  const BackwardStep here{.attention = *this, .dy = b.dy(0).packed(), .y = y, .lse = lse, .dq = dq, .keys_wanted = keys_wanted};
  GradientTurn gradients(ring, own);
  BlockTurn blocks(ring, own, "ring_attention.backward");
  Tensor d_own;
  for (int step = 0; step < ring.steps(); ++step) {
    const Tensor before = keys_wanted ? gradients.begin(step) : Tensor();
    const Tensor block = blocks.begin(step);
    const Tensor found = ring.spans(step).empty() ? Tensor() : here.run(step, block);
    if (!keys_wanted) continue;
    if (found && before) found.add(before);
    if (step == 0)
      d_own = found;
    else
      gradients.end(step, found ? found : before);
  }
  if (dq) b.give(0, dq.to(q.dtype()));
  if (!keys_wanted) return;
  if (gradients.home()) d_own.add(gradients.home());
  b.give(1, d_own.select(0, kKeys).to(own.dtype()));
  b.give(2, d_own.select(0, kValues).to(own.dtype()));
}

}  // namespace

Var ring_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options, const Context& ctx) {
  const Tensor own = block_of(k.data(), v.data());
  const Ring ring(ctx, options.window);
  check_attention(q.data(), k.data(), v.data(), ring.spans(0), options);
  const RingAttention attention{.q = q.data(), .own = own, .options = options, .ring = ring};
  const Tensors found = ctx.receive([&] { return attention.forward(); });
  return record("ring_attention", {q, k, v}, found[0],
                [attention, y = found[0], lse = found[1]](Backprop& b) { attention.backward(b, y, lse); });
}

}  // namespace ropewalk
