#include "parallel/pipeline.h"

#include <cassert>
#include <map>

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

double sum_of(const Tensors& scalars) {
  double sum = 0;
  for (const Tensor& scalar : scalars) sum += scalar.item();
  return sum;
}

}  // namespace

// A microbatch in one chunk, between its forward and its last turn.
struct Pipeline::Flight {
  Flight(const Microbatch& microbatch, int of_chunk) : batch(microbatch), chunk(of_chunk) {}

  const Microbatch& batch;
  int chunk;
  Tape tape;
  Vars entered;  // at the border before the stage
  Vars leaving;  // at the border behind it
  Vars losses;   // auxiliary
  Var cross_entropy;
};

Pipeline::Pipeline(const Stage& stage, const Mesh& mesh, const PipelineOptions& options) : stage_(stage), mesh_(mesh), options_(options) {
  assert((ranks() > 1 || options.chunks == 1) && "a rank that is alone would send to itself");
}

PipelineShape Pipeline::shape(const std::vector<Microbatch>& batches) const {
  return {.ranks = ranks(), .chunks = options_.chunks, .microbatches = static_cast<int>(batches.size())};
}

Context Pipeline::context(const Microbatch& batch, bool training, Health* health) const {
  return {.batch = batch,
          .cp = options_.cp,
          .dtype = options_.dtype,
          .states = {},
          .training = training,
          .units = options_.units,
          .health = health};
}

Carry Pipeline::receive(const Microbatch& batch, int chunk, Tape* tape) const {
  Carry carry;
  if (first(chunk)) {
    carry.x = tape ? tape->constant(batch.tokens_BS) : Var(batch.tokens_BS);
    return carry;
  }
  const std::vector<Slot> slots = stage_.ports(chunk).reads;
  int64_t count = 1;
  for (const Slot& slot : slots) count += width_of(slot);
  const Group& group = mesh_.pipeline();
  const Tensor header = group.receive({count, kHeader}, DType::kFloat64, rank_before(), "pipeline.header");
  const auto take = [&](int64_t index) {
    const auto [shape, dtype] = read_header(header, index);
    Tensor received = group.receive(shape, dtype, rank_before(), "pipeline.forward");
    return tape ? tape->input(std::move(received)) : Var(std::move(received));
  };
  Vars vars;
  for (int64_t i = 0; i < count; ++i) vars.push_back(take(i));
  unflatten(vars, slots, carry);
  return carry;
}

std::vector<Microbatch> Pipeline::on_device(const std::vector<Microbatch>& batches) const {
  std::vector<Microbatch> there;
  for (const Microbatch& batch : batches) there.push_back(batch.to(options_.device));
  return there;
}

void Pipeline::send(const Carry& carry, int chunk) const {
  const Group& group = mesh_.pipeline();
  const Vars vars = flatten(carry, stage_.ports(chunk).writes);
  group.send(header_of(vars), rank_behind(), "pipeline.header");
  for (const Var& var : vars) group.send(var.data(), rank_behind(), "pipeline.forward");
}

void Pipeline::run_forward(Flight& flight, Health* health) const {
  const Phase phase("forward");
  Carry received = receive(flight.batch, flight.chunk, &flight.tape);
  if (!first(flight.chunk)) flight.entered = flatten(received, stage_.ports(flight.chunk).reads);
  const Carry carry = stage_.forward(flight.chunk, std::move(received), context(flight.batch, true, health));
  if (!last(flight.chunk)) {
    send(carry, flight.chunk);
    flight.leaving = flatten(carry, stage_.ports(flight.chunk).writes);
  }
  flight.losses = carry.losses;
  flight.cross_entropy = carry.cross_entropy;
}

void Pipeline::run_backward(Flight& flight, const LossScales& scales) const {
  const Phase phase("backward");
  const Group& group = mesh_.pipeline_back();
  Vars roots = flight.leaving;
  Tensors seeds;
  for (const Var& var : roots) seeds.push_back(group.receive(var.shape(), var.dtype(), rank_behind(), "pipeline.backward"));
  const auto seed = [&](const Var& loss, double scale) {
    roots.push_back(loss);
    seeds.push_back(Tensor::full(loss.shape(), scale, loss.dtype(), loss.data().device()));
  };
  for (const Var& loss : flight.losses) seed(loss, scales.sequence);
  if (flight.cross_entropy) seed(flight.cross_entropy, scales.target);
  flight.tape.defer_weight_parts(options_.schedule == PipelineSchedule::kZeroBubble);
  const Tensors grads = flight.tape.backward(roots, seeds);
  for (size_t i = 0; i < grads.size(); ++i)  // none where nobody behind used it
    group.send(grads[i] ? grads[i] : zeros_like(flight.entered[i].data()), rank_before(), "pipeline.backward");
}

void Pipeline::run_weights(Flight& flight) {
  const Phase phase("weights");
  flight.tape.run_deferred();
}

LossSums Pipeline::forward_backward(const std::vector<Microbatch>& given, const LossScales& scales, Health* health) const {
  const std::vector<Microbatch> batches = on_device(given);
  std::map<std::pair<int, int>, Flight> flights;  // by microbatch and chunk
  Tensors cross_entropies, auxiliaries;  // read at the end: a GPU is not waited for on the way
  for (const Turn& turn : turns_of(options_.schedule, shape(batches), rank())) {
    const std::pair key(turn.microbatch, turn.chunk);
    if (turn.part == Turn::kForward) {
      Flight& flight = flights.try_emplace(key, batches[static_cast<size_t>(turn.microbatch)], turn.chunk).first->second;
      run_forward(flight, health);
      if (flight.cross_entropy) cross_entropies.push_back(flight.cross_entropy.data());
      for (const Var& loss : flight.losses) auxiliaries.push_back(loss.data());
      continue;
    }
    Flight& flight = flights.at(key);
    if (turn.part == Turn::kBackward) run_backward(flight, scales);
    if (turn.part == Turn::kWeights) run_weights(flight);
    if (turn.part == Turn::kWeights || options_.schedule != PipelineSchedule::kZeroBubble) flights.erase(key);
  }
  return {.cross_entropy = sum_of(cross_entropies), .auxiliary = sum_of(auxiliaries)};
}

double Pipeline::forward(const std::vector<Microbatch>& given, const Arrival& arrive) const {
  const std::vector<Microbatch> batches = on_device(given);
  double cross_entropy = 0;
  for (const Turn& turn : forward_turns(shape(batches))) {
    const Microbatch& batch = batches[static_cast<size_t>(turn.microbatch)];
    const Carry carry = stage_.forward(turn.chunk, receive(batch, turn.chunk, nullptr), context(batch, false));
    if (!last(turn.chunk)) {
      send(carry, turn.chunk);
      continue;
    }
    cross_entropy += carry.cross_entropy.data().item();
    if (arrive) arrive(carry, context(batch, false));
  }
  return cross_entropy;
}

}  // namespace ropewalk
