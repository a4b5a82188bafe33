#include "parallel/pipeline.h"

#include <deque>

namespace ropewalk {
namespace {

constexpr int kHeader = 2 + Shape::kMaxRank;  // dtype, rank, extents

// The shapes go ahead of the tensors, since rows and lengths may differ between microbatches.
Tensor header_of(const Vars& vars) {
  const Tensor header = Tensor::zeros({static_cast<int64_t>(vars.size()), kHeader}, DType::kFloat64);
  double* field = header.data<double>();
  for (const Var& var : vars) {
    field[0] = static_cast<double>(var.dtype());
    field[1] = var.shape().rank();
    std::copy(var.shape().begin(), var.shape().end(), field + 2);
    field += kHeader;
  }
  return header;
}

std::pair<Shape, DType> read_header(const Tensor& header, int64_t index) {
  const double* field = header.data<double>() + index * kHeader;
  Shape shape;
  for (int d = 0; d < static_cast<int>(field[1]); ++d) shape = shape.then({static_cast<int64_t>(field[2 + d])});
  return {shape, static_cast<DType>(field[0])};
}

}  // namespace

// A microbatch between its forward and its backward.
struct Pipeline::InFlight {
  const Microbatch& batch;
  Tape tape;
  Vars entered;  // at the border before this stage
  Vars leaving;  // at the border behind it
  Vars losses;   // auxiliary
  Var cross_entropy;
};

Context Pipeline::context(const Microbatch& batch, bool training, Health* health) const {
  return {.batch = batch, .cp = options_.cp, .dtype = options_.dtype, .states = {}, .training = training, .health = health};
}

Carry Pipeline::receive(const Microbatch& batch, Tape* tape) const {
  Carry carry;
  if (first()) {
    carry.x = tape ? tape->constant(batch.tokens_BS) : Var(batch.tokens_BS);
    return carry;
  }
  const std::vector<Slot> slots = stage_.ports().reads;
  int64_t count = 1;
  for (const Slot& slot : slots) count += width_of(slot);
  const Group& pipeline = mesh_.pipeline();
  const int from = pipeline.rank() - 1;
  const Tensor header = pipeline.receive({count, kHeader}, DType::kFloat64, from, "pipeline.header");
  const auto take = [&](int64_t index) {
    const auto [shape, dtype] = read_header(header, index);
    Tensor received = pipeline.receive(shape, dtype, from, "pipeline.forward");
    return tape ? tape->input(std::move(received)) : Var(std::move(received));
  };
  Vars vars;
  for (int64_t i = 0; i < count; ++i) vars.push_back(take(i));
  unflatten(vars, slots, carry);
  return carry;
}

void Pipeline::send(const Carry& carry) const {
  const Group& pipeline = mesh_.pipeline();
  const Vars vars = flatten(carry, stage_.ports().writes);
  pipeline.send(header_of(vars), pipeline.rank() + 1, "pipeline.header");
  for (const Var& var : vars) pipeline.send(var.data(), pipeline.rank() + 1, "pipeline.forward");
}

Carry Pipeline::run_forward(InFlight& flight, Health* health) const {
  const Phase phase("forward");
  Carry received = receive(flight.batch, &flight.tape);
  if (!first()) flight.entered = flatten(received, stage_.ports().reads);
  Carry carry = stage_.forward(std::move(received), context(flight.batch, true, health));
  flight.losses = carry.losses;
  flight.cross_entropy = carry.cross_entropy;
  if (!last()) {
    send(carry);
    flight.leaving = flatten(carry, stage_.ports().writes);
  }
  return carry;
}

void Pipeline::run_backward(InFlight& flight, const LossScales& scales) const {
  const Phase phase("backward");
  const Group& pipeline = mesh_.pipeline();
  Vars roots = flight.leaving;
  Tensors seeds;
  for (const Var& var : roots) seeds.push_back(pipeline.receive(var.shape(), var.dtype(), pipeline.rank() + 1, "pipeline.backward"));
  const auto seed = [&](const Var& loss, double scale) {
    roots.push_back(loss);
    seeds.push_back(Tensor::full(loss.shape(), scale, loss.dtype()));
  };
  for (const Var& loss : flight.losses) seed(loss, scales.sequence);
  if (flight.cross_entropy) seed(flight.cross_entropy, scales.target);
  flight.tape.defer_weight_parts(options_.defer_weight_parts);
  Tensors grads = flight.tape.backward(roots, seeds);
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i]) grads[i] = zeros_like(flight.entered[i].data());  // nobody behind used it
    pipeline.send(grads[i], pipeline.rank() - 1, "pipeline.backward");
  }
}

LossSums Pipeline::forward_backward(const std::vector<Microbatch>& batches, const LossScales& scales, Health* health) const {
  std::deque<InFlight> flights;
  LossSums sums;
  for (const Microbatch& batch : batches) {
    const Carry carry = run_forward(flights.emplace_back(batch), health);
    if (carry.cross_entropy) sums.cross_entropy += carry.cross_entropy.data().item();
    for (const Var& loss : carry.losses) sums.auxiliary += loss.data().item();
  }
  for (InFlight& flight : flights) run_backward(flight, scales);
  for (InFlight& flight : flights) flight.tape.run_deferred();
  return sums;
}

double Pipeline::forward(const std::vector<Microbatch>& batches, const Arrival& arrive) const {
  double cross_entropy = 0;
  for (const Microbatch& batch : batches) {
    const Carry carry = stage_.forward(receive(batch, nullptr), context(batch, false));
    if (!last()) {
      send(carry);
      continue;
    }
    cross_entropy += carry.cross_entropy.data().item();
    if (arrive) arrive(carry, context(batch, false));
  }
  return cross_entropy;
}

}  // namespace ropewalk
