// What the CPU's SSD launches share. A task is one chunk of one group of heads; a thread has one set of working memory for all of its
// tasks, which stays in the second cache. What the heads of a group share is laid out in panels (kernels/matmul/panels.h) once a task, what
// is a head's own once a head. Letters: L tokens of the chunk, P width of a head, N size of the state, cum_i = sum_{t <= i} a_t inside the
// chunk.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/ssd/ssd.h"
#include "kernels/ssd/ssd_blocks.h"
#include "kernels/tensor/fetch_ahead.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/scratch.h"
#include "kernels/tensor/thread_scratch.h"

namespace ropewalk::ssd {

// Tokens and heads of a [B, S, heads] or [B, S, heads, width] tensor.
template <class T>
struct Heads {
  explicit Heads(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
  T* at(const SsdChunk& chunk, int64_t h) const { return data + chunk.row * row + chunk.begin * token + h * head; }

  T* data;
  int64_t row, token, head;
};

// A head's steps in a chunk, followed by zeros to a whole block. Differences of cum are what counts, and it grows: hence double.
template <class W>
struct Steps {
  explicit Steps(int64_t tokens) : step(tokens), slope(tokens), cum(tokens) {}

  Scratch<W> step;   // dt
  Scratch<W> slope;  // d step / d raw
  Scratch<double> cum;
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
        chunks(in.chunks) {
    for (const SsdChunk& chunk : chunks) blocks = std::max(blocks, block_count(chunk.length));
    tokens = blocks * kBlock;
  }

  // Task(launch), one a thread, is handed all chunks and groups: task.run(chunk, its index, group), while a Task::Session lives.
  template <class Task, class Launch>
  void run(const Launch& launch) const {
    ThreadRooms<Task> tasks([&] { return Task(launch); });
    parallel_for(static_cast<int64_t>(chunks.size()) * groups, [&](int64_t i) {
      [[maybe_unused]] const typename Task::Session session;
      tasks.mine().run(chunks[i / groups], i / groups, i % groups);
    });
  }
  int64_t first_head(int64_t group) const { return group * (heads / groups); }
  // Of the heads that share b and c with h.
  bool is_last(int64_t h) const { return (h + 1) % (heads / groups) == 0; }

  void steps(const SsdChunk& chunk, int64_t h, const Steps<W>& to) const {
    const T* from = dt.at(chunk, h);
    const int64_t rest = block_count(chunk.length) * kBlock - chunk.length;
    for (int64_t i = 0; i < chunk.length; ++i) to.step[i] = static_cast<W>(from[i * dt.token]) + dt_bias[h];
    vectorized<softplus_row<W>>(chunk.length, dt_low, dt_high, to.step.data, to.slope.data);
    const double rate = -std::exp(static_cast<double>(a_log[h]));
    double sum = 0;
    for (int64_t i = 0; i < chunk.length; ++i) to.cum[i] = sum += rate * to.step[i];
    std::fill_n(to.step + chunk.length, rest, W(0));
    std::fill_n(to.cum + chunk.length, rest, 0.0);
  }

  Heads<T> v, dt, b;
  int64_t heads, width, groups, state;
  const W *a_log, *dt_bias;
  W dt_low, dt_high;
  const std::vector<SsdChunk>& chunks;
  int64_t blocks = 0, tokens = 0;  // of the longest chunk, in whole blocks
};

// Calls body(P{}) with the panels for these operands.
template <class T, class Body>
void with_panels_for(const SsdOperands& in, const Body& body) {
  int64_t smallest = std::min(in.v.dim(3), in.b.dim(3)), longest = 0;
  for (const SsdChunk& chunk : in.chunks) longest = std::max(longest, chunk.length);
  with_panels<T>(std::min(smallest, longest) < 16, body);
}

// Parameter gradients of each chunk and head, which are then added in order.
struct ParameterPartials {
  ParameterPartials(int64_t chunk_count, int64_t head_count)
      : chunks(chunk_count), heads(head_count), a_log(chunks * heads), dt_bias(chunks * heads), d_skip(chunks * heads) {}

  int64_t at(int64_t chunk, int64_t h) const { return chunk * heads + h; }

  template <class W>
  void add_to(const SsdGradients& gradients) const {
    add<W>(a_log, gradients.a_log);
    add<W>(dt_bias, gradients.dt_bias);
    add<W>(d_skip, gradients.d_skip);
  }

  template <class W>
  void add(const double* partials, const Tensor& gradient) const {
    if (!gradient) return;
    W* to = gradient.data<W>();
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t c = 0; c < chunks; ++c) sum += partials[at(c, h)];
      to[h] += static_cast<W>(sum);
    }
  }

  int64_t chunks, heads;
  Scratch<double> a_log, dt_bias, d_skip;
};

// The way back through a_t = rate dt_t, the limits of dt (what they hold gets no gradient) and softplus. Consumes d_step, what dt itself is
// owed, and d_a.
template <class T>
void steps_backward(const Operands<T>& in, const SsdChunk& chunk, int64_t index, int64_t h, const Steps<Wide<T>>& steps, Wide<T>* d_step,
                    const Wide<T>* d_a, const Heads<T>& to, const ParameterPartials& partials) {
  using W = Wide<T>;
  const W rate = -std::exp(in.a_log[h]);
  vectorized<steps_backward_row<W>>(chunk.length, rate, d_a, steps.slope.data, d_step);
  double d_rate = 0, d_bias = 0;
  T* d_raw = to.at(chunk, h);
  for (int64_t i = 0; i < chunk.length; ++i) {
    d_rate += static_cast<double>(d_a[i]) * static_cast<double>(steps.step[i]);
    d_bias += static_cast<double>(d_step[i]);
    d_raw[i * to.token] = static_cast<T>(d_step[i]);
  }
  partials.a_log[partials.at(index, h)] = static_cast<double>(rate) * d_rate;
  partials.dt_bias[partials.at(index, h)] = d_bias;
}

}  // namespace ropewalk::ssd
