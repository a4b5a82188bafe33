// Reverse-mode differentiation by a tape of coarse ops.
//
// A Var is a tensor that remembers which node of which tape made it. A parameter is a leaf *without* a tape: an op records on the
// tape of its inputs, and records nothing where no input has one (decoding, evaluation, the first pass of a recomputed segment).
// Activation gradients are *given* to inputs and the tape adds them up in recorded order; parameter gradients are *added* by the rule,
// in fp32 (fp64 for fp64), straight into the slice of the gradient bucket that the parameter names. The tape knows no ranks.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

class Tape;

// A trainable matrix as an op sees it. Who owns parameters (parallel/) places, fills and moves the tensors; ops hold a Var on the leaf and
// ask for .data() when they need it, so the working copy may be gathered late and freed early.
struct Leaf {
  std::string name;
  Tensor data;                            // working copy, in the dtype that ops compute with
  Tensor grad;                            // same shape; fp32 or fp64
  std::function<void()> make_grad;        // sets grad, zeros, when a rule asks for it; neither: no gradient is wanted
  std::function<void()> on_contribution;  // after each op's contribution to grad, also an op that turned out to give nothing
};

class Var {
 public:
  Var() = default;                                        // no value: bool(var) is false
  Var(Tensor constant) : tensor_(std::move(constant)) {}  // no tape, no gradient
  explicit Var(std::shared_ptr<Leaf> leaf) : leaf_(std::move(leaf)) {}

  explicit operator bool() const { return leaf_ || tensor_; }
  const Tensor& data() const { return leaf_ ? leaf_->data : tensor_; }
  const Shape& shape() const { return data().shape(); }
  int64_t dim(int d) const { return data().dim(d); }
  DType dtype() const { return data().dtype(); }

  Tape* tape() const { return tape_; }
  const std::shared_ptr<Leaf>& leaf() const { return leaf_; }
  // Whether backward has a use for this value's gradient.
  bool wants_gradient() const { return leaf_ ? leaf_->grad || leaf_->make_grad : node_ >= 0; }
  Var detached() const { return leaf_ ? *this : Var(tensor_); }

 private:
  friend class Tape;
  friend class Backprop;

  Tensor tensor_;
  std::shared_ptr<Leaf> leaf_;
  Tape* tape_ = nullptr;
  int64_t node_ = -1;
  int output_ = 0;
};

using Vars = std::vector<Var>;

// What a backward rule sees.
class Backprop {
 public:
  const Tensor& dy(int output) const;  // empty: nobody used that output
  bool wanted(int input) const;
  void give(int input, Tensor dx);  // an empty dx gives nothing; ignored where not wanted
  // Where to compute the gradient that the rule then gives, and keeps nowhere else: `like` in shape and dtype. Of a part of a whole it is
  // the part's place in the whole's gradient, with a dense last dim, so that backward need not put the parts together; else a new tensor.
  Tensor room(int input, const Tensor& like) const;
  Tensor place(int input) const;                 // the same, but empty where there is no such place
  Tensor& sum_into(const Var& parameter) const;  // the op does +=
  // What other uses have given the input so far, dense, for a rule that adds to it while it computes and gives the sum; empty: nothing.
  Tensor take(int input);
  void later(std::function<void(Backprop&)> weight_part);  // runs now, or at Tape::run_deferred(); must not give()

 private:
  friend class Tape;
  Backprop(Tape& tape, int64_t node) : tape_(tape), node_(node) {}

  Tape& tape_;
  int64_t node_;
  bool deferred_ = false;
};

using Rule = std::function<void(Backprop&)>;
// Where an output's gradient has its place beforehand (Backprop::place); empty: nowhere.
using Place = std::function<Tensor(const Backprop&, int output)>;

// Makes the outputs of an op from its inputs; remembers `rule` where a tape is to be written. All taped inputs share one tape.
Vars record(const char* op, const Vars& inputs, const Tensors& outputs, Rule rule, Place place = {});
inline Var record(const char* op, const Vars& inputs, const Tensor& output, Rule rule, Place place = {}) {
  return record(op, inputs, Tensors{output}, std::move(rule), std::move(place)).front();
}

enum class Recompute { kNone, kFull };

// Called around a segment's body: ZeRO-3 gathers and frees here, NVTX and profiles mark here.
struct SegmentHooks {
  std::function<void()> before_forward, after_forward, before_backward, after_backward;
};

// What a segment's body knows of the run it is in. A recomputed body runs twice; what it received from elsewhere the first time
// (another rank's state, a halo) is kept, so the replay needs no traffic.
class Pass {
 public:
  bool replay() const { return replay_; }
  // First run: calls `receive` and keeps what it returns. Replay: returns that, in the order of the calls.
  Tensors once(const std::function<Tensors()>& receive);

 private:
  friend class Tape;
  bool replay_ = false, keep_ = false;
  std::deque<Tensors> kept_;
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Var input(Tensor x);     // an activation leaf: backward() returns its gradient
  Var constant(Tensor x);  // on this tape, but without a gradient: token ids

  using Body = std::function<Vars(const Vars& inputs, Pass& pass)>;
  // Runs body with hooks around its forward and its backward. With kFull, keeps only the inputs and runs the body again in backward.
  // Without a tape among the inputs the body just runs.
  static Vars segment(const SegmentHooks& hooks, const Vars& inputs, const Body& body, Recompute policy);

  // From d(loss)/d(roots), runs every rule once, last recorded first, and frees each as it goes. An empty seed counts as none.
  // Returns the gradients of the input()s in their order; empty where no gradient arrived.
  Tensors backward(const Vars& roots, const Tensors& seeds);

  // While deferring, weight parts are kept until run_deferred(); the recorded order is kept.
  void defer_weight_parts(bool defer) { deferring_ = defer; }
  void run_deferred();

 private:
  friend class Backprop;
  friend Vars record(const char* op, const Vars& inputs, const Tensors& outputs, Rule rule, Place place);

  struct Node {
    const char* op;
    Vars inputs;  // without their tensors: only where gradients go
    int outputs = 0;
    Rule rule;
    Place place;
    Tensors grads;     // by output
    Tensors placed;    // by output: the place, once a rule has asked for it
    double bytes = 0;  // that backward has to read and write at least, where a timeline is recorded
  };
  struct Deferred {
    const char* op;
    std::function<void(Backprop&)> work;
    std::vector<std::shared_ptr<Leaf>> leaves;
  };

  Var attach(Tensor x, int64_t node, int output);
  Vars write(const char* op, const Vars& inputs, const Tensors& outputs, Rule rule, Place place = {});
  Tensor place_of(int64_t node, int output);
  void accumulate(int64_t node, int output, const Tensor& dx);
  void run(int64_t node);
  static void contributed(const std::vector<std::shared_ptr<Leaf>>& leaves);
  static std::vector<std::shared_ptr<Leaf>> leaves_of(const Node& node);
  static Vars recomputed(Tape& tape, const SegmentHooks& hooks, const Vars& inputs, const Body& body);
  void replay(const Vars& inputs, const Body& body, Pass& pass, Backprop& outer);

  std::vector<Node> nodes_;
  std::vector<int64_t> inputs_;  // nodes of input()s
  std::vector<Deferred> deferred_;
  bool deferring_ = false;
};

}  // namespace ropewalk
