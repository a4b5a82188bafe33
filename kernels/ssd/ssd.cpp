#include "kernels/ssd/ssd.h"

#include <algorithm>

namespace ropewalk {
namespace {

void expect_parameter(const char* name, const Var& x, const SsdInputs& in) {
  const Shape expected{in.v.dim(2)};
  expect(x.shape() == expected && x.dtype() == wide(in.v.dtype()), "ssd: {}: expected {} {}, given {} {}", name, wide(in.v.dtype()),
         expected, x.dtype(), x.shape());
}

void expect_activation(const char* name, const Var& x, const Shape& expected, const SsdInputs& in) {
  expect(x.shape() == expected && x.dtype() == in.v.dtype(), "ssd: {}: expected {} {}, given {} {}", name, in.v.dtype(), expected,
         x.dtype(), x.shape());
  expect(x.dim(-1) == 1 || x.data().stride(-1) == 1, "ssd: {}: expected a dense last dim", name);
}

void check(const SsdInputs& in) {
  expect(in.v.shape().rank() == 4, "ssd: v: expected [B, S, H, P], given {}", in.v.shape());
  expect(in.b.shape().rank() == 4, "ssd: b: expected [B, S, G, N], given {}", in.b.shape());
  const int64_t heads = in.v.dim(2), groups = in.b.dim(2);
  const Shape tokens = in.v.shape().first(2);
  expect(groups > 0 && heads % groups == 0, "ssd: b: expected a number of groups that divides {} heads, given {}", heads, groups);
  expect_activation("v", in.v, in.v.shape(), in);
  expect_activation("dt", in.dt, tokens.then({heads}), in);
  expect_activation("b", in.b, tokens.then({groups, in.b.dim(3)}), in);
  expect_parameter("a_log", in.a_log, in);
  expect_parameter("dt_bias", in.dt_bias, in);
  expect(in.dt_low <= in.dt_high, "ssd: dt_low: expected at most {} (dt_high), given {}", in.dt_high, in.dt_low);
  expect(in.chunk > 0, "ssd: chunk: expected at least 1, given {}", in.chunk);
  expect_runs_cover("ssd", in.runs, tokens[0], tokens[1]);
}

void check_outputs(const SsdInputs& in, const Var& h0, int64_t chunks) {
  check(in);
  expect_activation("c", in.c, in.b.shape(), in);
  expect_parameter("d_skip", in.d_skip, in);
  if (!h0) return;
  const Shape expected{chunks, in.v.dim(2), in.v.dim(3), in.b.dim(3)};
  expect(h0.shape() == expected && h0.dtype() == wide(in.v.dtype()) && h0.data().contiguous(), "ssd: h0: expected dense {} {}, given {} {}",
         wide(in.v.dtype()), expected, h0.dtype(), h0.shape());
}

Tensor gradient_of(Backprop& b, int input, const Var& parameter) { return b.wanted(input) ? b.sum_into(parameter) : Tensor(); }

Tensor or_zeros(const Tensor& gradient, const Shape& shape, const Tensor& like) {
  return gradient ? gradient.packed() : Tensor::zeros(shape, wide(like.dtype()), like.device());
}

// What the products of all chunks multiply.
struct Sizes {
  explicit Sizes(const SsdOperands& in) {
    const auto heads = static_cast<double>(in.v.dim(2)), width = static_cast<double>(in.v.dim(3));
    const auto groups = static_cast<double>(in.b.dim(2)), state = static_cast<double>(in.b.dim(3));
    for (const SsdChunk& chunk : in.chunks) {
      const auto length = static_cast<double>(chunk.length), pairs = length * (length + 1) / 2;
      token_states += length * heads * width * state;
      head_pairs += pairs * heads * width;
      group_pairs += pairs * groups * state;
    }
    operand_bytes = static_cast<double>(in.v.bytes() + in.dt.bytes() + in.b.bytes() + (in.c ? in.c.bytes() : 0));
  }
  double token_states = 0, head_pairs = 0, group_pairs = 0, operand_bytes = 0;
};

}  // namespace

std::vector<SsdChunk> ssd_chunks(const Runs& runs, int64_t chunk) {
  std::vector<SsdChunk> chunks;
  for (size_t r = 0; r < runs.size(); ++r)
    for (int64_t begin = 0; begin < runs[r].length; begin += chunk)
      chunks.push_back({runs[r].row, runs[r].begin + begin, std::min(chunk, runs[r].length - begin), static_cast<int64_t>(r)});
  return chunks;
}

std::vector<int64_t> ssd_first_chunks(const Runs& runs, int64_t chunk) {
  std::vector<int64_t> first = {0};
  for (const Run& run : runs) first.push_back(first.back() + (run.length + chunk - 1) / chunk);
  return first;
}

// The rules keep parameters as leaves: their working copy may be another one by the time of backward.
SsdStates ssd_chunk_states(const SsdInputs& in) {
  check(in);
  const auto operands = [v = in.v.data(), dt = in.dt.data(), b = in.b.data(), a_log = in.a_log, dt_bias = in.dt_bias,
                         chunks = ssd_chunks(in.runs, in.chunk), low = in.dt_low, high = in.dt_high] {
    return SsdOperands{
        .v = v, .dt = dt, .b = b, .a_log = a_log.data(), .dt_bias = dt_bias.data(), .chunks = chunks, .dt_low = low, .dt_high = high};
  };
  const SsdOperands now = operands();
  const Shape heads{static_cast<int64_t>(now.chunks.size()), in.v.dim(2)};
  const Tensor decay = Tensor::empty(heads, wide(in.v.dtype()), in.v.data().device());
  const Tensor local = Tensor::empty(heads.then({in.v.dim(3), in.b.dim(3)}), decay.dtype(), decay.device());
  launch(decay.device(), SsdStatesForward{.decay = decay, .local = local, .in = now});
  const auto backward = [operands, a_log = in.a_log, dt_bias = in.dt_bias, heads](Backprop& b) {
    const SsdOperands then = operands();
    const SsdGradients gradients{.v = b.room(0, then.v),
                                 .dt = b.room(1, then.dt),
                                 .b = b.room(2, then.b),
                                 .a_log = gradient_of(b, 3, a_log),
                                 .dt_bias = gradient_of(b, 4, dt_bias)};
    const Tensor d_decay = or_zeros(b.dy(0), heads, then.v);
    const Tensor d_local = or_zeros(b.dy(1), heads.then({then.v.dim(3), then.b.dim(3)}), then.v);
    launch(gradients.v.device(), SsdStatesBackward{.gradients = gradients, .d_decay = d_decay, .d_local = d_local, .in = then});
    b.give(0, gradients.v);
    b.give(1, gradients.dt);
    b.give(2, gradients.b);
  };
  const Vars outputs = record("ssd_chunk_states", {in.v, in.dt, in.b, in.a_log, in.dt_bias}, {decay, local}, backward);
  return {.decay = outputs[0], .local = outputs[1]};
}

Var ssd_chunk_outputs(const SsdInputs& in, const Var& h0) {
  const auto operands = [v = in.v.data(), dt = in.dt.data(), b = in.b.data(), c = in.c.data(), a_log = in.a_log, dt_bias = in.dt_bias,
                         d_skip = in.d_skip, chunks = ssd_chunks(in.runs, in.chunk), low = in.dt_low, high = in.dt_high] {
    return SsdOperands{.v = v,
                       .dt = dt,
                       .b = b,
                       .c = c,
                       .a_log = a_log.data(),
                       .dt_bias = dt_bias.data(),
                       .d_skip = d_skip.data(),
                       .chunks = chunks,
                       .dt_low = low,
                       .dt_high = high};
  };
  const SsdOperands now = operands();
  check_outputs(in, h0, static_cast<int64_t>(now.chunks.size()));
  const Tensor y = empty_like(in.v.data());
  launch(y.device(), SsdOutputsForward{.y = y, .in = now, .h0 = h0.data()});
  const auto backward = [operands, h0 = h0.data(), a_log = in.a_log, dt_bias = in.dt_bias, d_skip = in.d_skip](Backprop& b) {
    const SsdOperands then = operands();
    const SsdGradients gradients{.v = b.room(0, then.v),
                                 .dt = b.room(1, then.dt),
                                 .b = b.room(2, then.b),
                                 .c = b.room(3, then.c),
                                 .a_log = gradient_of(b, 4, a_log),
                                 .dt_bias = gradient_of(b, 5, dt_bias),
                                 .d_skip = gradient_of(b, 6, d_skip)};
    const Tensor d_h0 = b.wanted(7) ? empty_like(h0) : Tensor(), dy = b.dy(0).packed();
    launch(dy.device(), SsdOutputsBackward{.gradients = gradients, .d_h0 = d_h0, .dy = dy, .in = then, .h0 = h0});
    b.give(0, gradients.v);
    b.give(1, gradients.dt);
    b.give(2, gradients.b);
    b.give(3, gradients.c);
    if (d_h0) b.give(7, d_h0);
  };
  return record("ssd_chunk_outputs", {in.v, in.dt, in.b, in.c, in.a_log, in.dt_bias, in.d_skip, h0}, y, backward);
}

Effort effort(const SsdStatesForward& args) {
  const Sizes n(args.in);
  return {.flops = 2 * n.token_states, .bytes = n.operand_bytes + static_cast<double>(args.local.bytes())};
}

Effort effort(const SsdStatesBackward& args) {
  const Sizes n(args.in);
  return {.flops = 4 * n.token_states, .bytes = 2 * n.operand_bytes + static_cast<double>(args.d_local.bytes())};
}

// C B^T and its product with v inside the chunk, C h0.
Effort effort(const SsdOutputsForward& args) {
  const Sizes n(args.in);
  return {.flops = 2 * (n.group_pairs + n.head_pairs + n.token_states),
          .bytes = n.operand_bytes + static_cast<double>(args.y.bytes() + (args.h0 ? args.h0.bytes() : 0))};
}

// C B^T again; dy v^T, and what its transposes give to v, b and c; dy h0^T and C^T dy.
Effort effort(const SsdOutputsBackward& args) {
  const Sizes n(args.in);
  return {.flops = 2 * (3 * n.group_pairs + 2 * n.head_pairs + 2 * n.token_states),
          .bytes = 2 * n.operand_bytes + static_cast<double>(args.dy.bytes() + (args.h0 ? 2 * args.h0.bytes() : 0))};
}

}  // namespace ropewalk
