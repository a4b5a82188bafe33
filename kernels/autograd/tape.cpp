#include "kernels/autograd/tape.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace ropewalk {
namespace {

Tape* tape_of(const Vars& inputs) {
  Tape* tape = nullptr;
  for (const Var& input : inputs) {
    if (!input.tape()) continue;
    assert(!tape || tape == input.tape());
    tape = input.tape();
  }
  return tape;
}

void call(const std::function<void()>& hook) {
  if (hook) hook();
}

Vars constants(const Tensors& tensors) { return Vars(tensors.begin(), tensors.end()); }

Tensors data_of(const Vars& vars) {
  Tensors tensors;
  for (const Var& var : vars) tensors.push_back(var.data());
  return tensors;
}

double bytes_of(const Vars& vars) {
  double bytes = 0;
  for (const Var& var : vars)
    if (var) bytes += static_cast<double>(var.data().bytes());
  return bytes;
}

// Outputs that are views of an input cost nothing.
double bytes_of(const Tensors& outputs, const Vars& inputs) {
  double bytes = 0;
  for (const Tensor& output : outputs) {
    const bool view =
        std::any_of(inputs.begin(), inputs.end(), [&](const Var& in) { return in && in.data().storage() == output.storage(); });
    if (!view) bytes += static_cast<double>(output.bytes());
  }
  return bytes;
}

}  // namespace

const Tensor& Backprop::dy(int output) const { return tape_.nodes_[node_].grads[output]; }

bool Backprop::wanted(int input) const { return tape_.nodes_[node_].inputs[input].wants_gradient(); }

void Backprop::give(int input, Tensor dx) {
  const Var& to = tape_.nodes_[node_].inputs[input];
  assert(!to.leaf_ && "parameter gradients are added, not given");
  if (dx && to.node_ >= 0) tape_.accumulate(to.node_, to.output_, dx);
}

Tensor Backprop::place(int input) const {
  const Var& to = tape_.nodes_[node_].inputs[input];
  return to.node_ >= 0 ? tape_.place_of(to.node_, to.output_) : Tensor();
}

Tensor Backprop::room(int input, const Tensor& like) const {
  const Tensor reserved = place(input);
  return reserved ? reserved : empty_like(like);
}

Tensor& Backprop::sum_into(const Var& parameter) const {
  Leaf& leaf = *parameter.leaf();
  if (!leaf.grad) leaf.make_grad();
  return leaf.grad;
}

Tensor Backprop::take(int input) {
  const Var& from = tape_.nodes_[node_].inputs[input];
  if (from.node_ < 0) return {};
  Tape::Node& node = tape_.nodes_[from.node_];
  Tensor& sum = node.grads[from.output_];
  if (!sum || node.placed[from.output_] || !sum.contiguous()) return {};
  Tensor taken = std::exchange(sum, {});
  return taken.storage().use_count() > 1 ? taken.contiguous_copy() : taken;
}

void Backprop::later(std::function<void(Backprop&)> weight_part) {
  if (!tape_.deferring_) return weight_part(*this);
  deferred_ = true;
  tape_.deferred_.push_back({tape_.nodes_[node_].op, std::move(weight_part), Tape::leaves_of(tape_.nodes_[node_])});
}

Vars record(const char* op, const Vars& inputs, const Tensors& outputs, Rule rule, Place place) {
  if (Timeline* const timeline = Timeline::recording()) {
    const double written = bytes_of(outputs, inputs);
    timeline->add_forward(op, {.bytes = written == 0 ? 0 : written + bytes_of(inputs)});
  }
  Tape* tape = tape_of(inputs);
  return tape ? tape->write(op, inputs, outputs, std::move(rule), std::move(place)) : constants(outputs);
}

Tensors Pass::once(const std::function<Tensors()>& receive) {
  if (replay_) {
    Tensors kept = std::move(kept_.front());
    kept_.pop_front();
    return kept;
  }
  Tensors received = receive();
  if (keep_) kept_.push_back(received);
  return received;
}

Var Tape::attach(Tensor x, int64_t node, int output) {
  Var var(std::move(x));
  var.tape_ = this;
  var.node_ = node;
  var.output_ = output;
  return var;
}

Var Tape::constant(Tensor x) { return attach(std::move(x), -1, 0); }

Var Tape::input(Tensor x) {
  const Var var = write("input", {}, {std::move(x)}, nullptr).front();
  inputs_.push_back(var.node_);
  return var;
}

Vars Tape::write(const char* op, const Vars& inputs, const Tensors& outputs, Rule rule, Place place) {
  const auto node = static_cast<int64_t>(nodes_.size());
  Node& made = nodes_.emplace_back();
  made.op = op;
  made.outputs = static_cast<int>(outputs.size());
  made.rule = std::move(rule);
  made.place = std::move(place);
  made.grads.resize(outputs.size());
  made.placed.resize(outputs.size());
  if (Timeline::recording()) {
    const double written = bytes_of(outputs, inputs);  // reads the inputs and the outputs' gradients, writes the inputs' gradients
    made.bytes = written == 0 ? 0 : written + 2 * bytes_of(inputs);
  }
  for (const Var& input : inputs) {
    Var link = input;
    link.tensor_ = {};
    made.inputs.push_back(std::move(link));
  }
  Vars results;
  for (int i = 0; i < made.outputs; ++i) results.push_back(attach(outputs[i], node, i));
  return results;
}

// Whoever asks second, or finds a gradient there already, gets none: it would overwrite the first.
Tensor Tape::place_of(int64_t index, int output) {
  Node& node = nodes_[index];
  if (!node.place || node.grads[output] || node.placed[output]) return {};
  return node.placed[output] = node.place(Backprop(*this, index), output);
}

void Tape::accumulate(int64_t node, int output, const Tensor& dx) {
  Tensor& sum = nodes_[node].grads[output];
  const Tensor& place = nodes_[node].placed[output];
  if (!sum) {
    sum = dx;
    return;
  }
  expect(sum.shape() == dx.shape() && sum.dtype() == dx.dtype(), "{}: gradient of output {}: expected {} {}, given {} {}", nodes_[node].op,
         output, sum.dtype(), sum.shape(), dx.dtype(), dx.shape());
  // Someone else may hold it, unless it was computed in its place: a rule gave one tensor to several inputs, or keeps it for a weight part.
  const bool in_place = place && sum.storage() == place.storage();
  if (!in_place && sum.storage().use_count() > 1) sum = sum.contiguous_copy();
  sum.add(dx);
}

std::vector<std::shared_ptr<Leaf>> Tape::leaves_of(const Node& node) {
  std::vector<std::shared_ptr<Leaf>> leaves;
  for (const Var& input : node.inputs)
    if (input.leaf_ && input.wants_gradient()) leaves.push_back(input.leaf_);
  return leaves;
}

void Tape::contributed(const std::vector<std::shared_ptr<Leaf>>& leaves) {
  for (const auto& leaf : leaves) call(leaf->on_contribution);
}

void Tape::run(int64_t index) {
  Backprop backprop(*this, index);
  bool reached = false;
  for (const Tensor& grad : nodes_[index].grads) reached |= bool(grad);
  const Rule rule = std::move(nodes_[index].rule);
  if (rule && reached) {
    Phase span(nodes_[index].op, TimeSpan::kBackward);
    span.set({.bytes = nodes_[index].bytes});
    rule(backprop);
  }
  if (rule && !backprop.deferred_) contributed(leaves_of(nodes_[index]));
}

Tensors Tape::backward(const Vars& roots, const Tensors& seeds) {
  assert(roots.size() == seeds.size());
  for (size_t i = 0; i < roots.size(); ++i)
    if (seeds[i] && roots[i].node_ >= 0) accumulate(roots[i].node_, roots[i].output_, seeds[i]);

  std::vector<Tensor> input_grads(nodes_.size());
  for (auto node = static_cast<int64_t>(nodes_.size()) - 1; node >= 0; --node) {
    const bool is_input = !nodes_[node].rule;
    run(node);
    if (is_input) input_grads[node] = nodes_[node].grads[0];
    nodes_[node].grads.clear();
    nodes_[node].placed.clear();
    nodes_[node].place = {};
    nodes_[node].inputs.clear();
  }
  Tensors result;
  for (const int64_t node : inputs_) result.push_back(input_grads[node]);
  nodes_.clear();
  inputs_.clear();
  return result;
}

void Tape::run_deferred() {
  // Moving the list first lets a weight part see a tape that no longer defers.
  const auto work = std::exchange(deferred_, {});
  Backprop none(*this, -1);
  for (const Deferred& item : work) {
    const Phase span(item.op, TimeSpan::kBackward);
    item.work(none);
    contributed(item.leaves);
  }
}

Vars Tape::segment(const SegmentHooks& hooks, const Vars& inputs, const Body& body, Recompute policy) {
  Tape* tape = tape_of(inputs);
  if (tape && policy == Recompute::kFull) return recomputed(*tape, hooks, inputs, body);

  // A hook that backward is to call is a node: its rule passes the gradients through, and runs after all that was recorded behind it.
  const auto mark = [tape](const Vars& vars, const std::function<void()>& hook) {
    if (!tape || !hook) return vars;
    return tape->write("segment", vars, data_of(vars), [hook, n = vars.size()](Backprop& b) {
      hook();
      for (size_t i = 0; i < n; ++i) b.give(static_cast<int>(i), b.dy(static_cast<int>(i)));
    });
  };
  call(hooks.before_forward);
  Pass pass;
  const Vars outputs = body(mark(inputs, hooks.after_backward), pass);
  call(hooks.after_forward);
  return mark(outputs, hooks.before_backward);
}

Vars Tape::recomputed(Tape& tape, const SegmentHooks& hooks, const Vars& inputs, const Body& body) {
  auto pass = std::make_shared<Pass>();
  pass->keep_ = true;
  Vars detached;
  for (const Var& input : inputs) detached.push_back(input.detached());
  call(hooks.before_forward);
  const Tensors outputs = data_of(body(detached, *pass));
  call(hooks.after_forward);
  return tape.write("segment", inputs, outputs, [&tape, hooks, inputs = detached, body, pass](Backprop& b) {
    call(hooks.before_backward);
    tape.replay(inputs, body, *pass, b);
    call(hooks.after_backward);
  });
}

void Tape::replay(const Vars& inputs, const Body& body, Pass& pass, Backprop& outer) {
  Tape inner;
  inner.deferring_ = deferring_;
  Vars attached;
  std::vector<int> taped;  // which inputs get a gradient
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool wanted = outer.wanted(static_cast<int>(i));
    if (wanted) taped.push_back(static_cast<int>(i));
    attached.push_back(wanted ? inner.input(inputs[i].data()) : inner.constant(inputs[i].data()));
  }
  pass.replay_ = true;
  const Vars outputs = body(attached, pass);
  Tensors seeds;
  for (size_t i = 0; i < outputs.size(); ++i) seeds.push_back(outer.dy(static_cast<int>(i)));
  const Tensors grads = inner.backward(outputs, seeds);
  for (size_t i = 0; i < taped.size(); ++i) outer.give(taped[i], grads[i]);
  for (Deferred& item : inner.deferred_) deferred_.push_back(std::move(item));
}

}  // namespace ropewalk
