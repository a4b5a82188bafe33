#include <algorithm>
#include <numeric>

#include "kernels/causal_conv1d/causal_conv1d.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/upload.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr int kMostTaps = 8;
constexpr int kChannels = 4;  // of a thread, which keeps their taps, and the values that these see, in registers
constexpr int kMostThreads = 128;
constexpr int kAhead = 4;  // tokens whose loads are under way together

// ---- who walks over which tokens

// Neighbouring tokens of a run.
struct Piece {
  int64_t first;          // row of x
  int64_t tokens;         // > 0
  int64_t before, after;  // how many tokens of the run lie on either side, at most taps - 1
  int64_t enters;         // the row of the halo that stands before the run; -1: none
  int64_t slot;           // where the gradient of that row goes; -1: nowhere
};

// Tasks of equally many tokens; task i has pieces [first_of_task[i], first_of_task[i + 1]).
struct Work {
  const Piece* pieces;
  const int64_t* first_of_task;

  template <class Body>
  __device__ void for_each_piece(int64_t task, const Body& body) const {
    for (int64_t i = first_of_task[task]; i < first_of_task[task + 1]; ++i) body(pieces[i]);
  }
};

struct Plan {
  Uploaded<Piece> pieces;
  Uploaded<int64_t> first_of_task;
  int64_t tasks() const { return first_of_task.count - 1; }
  Work work() const { return {.pieces = pieces.data, .first_of_task = first_of_task.data}; }
};

// A slot for each run, empty where no run has one.
Plan plan_of(const Runs& runs, const std::vector<int64_t>& slots, int64_t row_tokens, int64_t taps, int64_t task_tokens) {
  std::vector<Piece> pieces;
  std::vector<int64_t> first_of_task;
  int64_t room = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const Run& run = runs[r];
    for (int64_t begin = 0; begin < run.length;) {
      if (room == 0) {
        first_of_task.push_back(std::ssize(pieces));
        room = task_tokens;
      }
      const int64_t tokens = std::min(run.length - begin, room), end = begin + tokens;
      pieces.push_back({.first = run.row * row_tokens + run.begin + begin,
                        .tokens = tokens,
                        .before = std::min(begin, taps - 1),
                        .after = std::min(run.length - end, taps - 1),
                        .enters = run.enters,
                        .slot = begin == 0 && !slots.empty() ? slots[r] : -1});
      room -= tokens;
      begin = end;
    }
  }
  first_of_task.push_back(std::ssize(pieces));
  return {.pieces = upload(pieces), .first_of_task = upload(first_of_task)};
}

// A block takes a tile of channels of a task.
struct Tiles {
  int64_t count;
  unsigned threads;
};
Tiles tiles_of(int64_t channels, int of_thread) {
  const int64_t threads = std::min<int64_t>(kMostThreads, ceil_div(ceil_div(channels, of_thread), kWarp) * kWarp);
  return {.count = threads == 0 ? 0 : ceil_div(channels, threads * of_thread), .threads = static_cast<unsigned>(threads)};
}

// Few enough that the GPU is full, and many enough that what a task reads of its neighbours is little.
int64_t tokens_of_task(int64_t tokens, int64_t tiles, int64_t most_tasks) {
  constexpr int64_t kFull = 132 * 16, kLeast = 32;
  const int64_t tasks = std::clamp<int64_t>(ceil_div(kFull, std::max<int64_t>(1, tiles)), 1, most_tasks);
  return std::max(kLeast, ceil_div(tokens, tasks));
}

// ---- what a thread does with n channels

template <class T>
struct Operands {
  Rows<T> x;
  const T *weight, *bias;  // [C, taps], [C]
  Rows<T> halo;            // data null: zeros
};

// Values of neighbouring tokens, the last that came at the end.
template <int taps, int n>
struct Window {
  float v[taps][n] = {};

  template <class T>
  __device__ void push(const Pack<T, n>& next) {
    for (int j = 0; j + 1 < taps; ++j)
      for (int i = 0; i < n; ++i) v[j][i] = v[j + 1][i];
    for (int i = 0; i < n; ++i) v[taps - 1][i] = float(next.v[i]);
  }
};

// The values before a piece, so that the first of the piece is the next to come.
template <int taps, int n, class T>
__device__ Window<taps, n> window_before(const Operands<T>& in, const Piece& piece, int64_t channel) {
  Window<taps, n> window;
  for (int back = taps - 1; back > 0; --back) {
    Pack<T, n> value{};
    if (back <= piece.before)
      value = load_pack<n>(in.x[piece.first - back] + channel);
    else if (in.halo.data && piece.enters >= 0)
      value = load_pack<n>(in.halo[(piece.enters + 1) * (taps - 1) + piece.before - back] + channel);
    window.push(value);
  }
  return window;
}

template <int taps, int n>
struct Filter {
  float weight[taps][n], bias[n];

  template <class T>
  __device__ Filter(const Operands<T>& in, int64_t channel) {
    for (int i = 0; i < n; ++i) bias[i] = float(in.bias[channel + i]);
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < n; ++i) weight[j][i] = float(in.weight[(channel + i) * taps + j]);
  }

  // z = bias + sum_j weight_j x_j
  __device__ Pack<float, n> along(const Window<taps, n>& x) const {
    Pack<float, n> z;
    for (int i = 0; i < n; ++i) z.v[i] = bias[i];
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < n; ++i) z.v[i] += weight[j][i] * x.v[j][i];
    return z;
  }
  // dx = sum_j weight_j dz_j, where the last dz is that of the last token which sees x.
  __device__ Pack<float, n> against(const Window<taps, n>& dz) const {
    Pack<float, n> dx{};
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < n; ++i) dx.v[i] += weight[j][i] * dz.v[taps - 1 - j][i];
    return dx;
  }
};

template <class T, int n>
__device__ Pack<T, n> rounded(const Pack<float, n>& x) {
  Pack<T, n> y;
  for (int i = 0; i < n; ++i) y.v[i] = static_cast<T>(x.v[i]);
  return y;
}

template <int n, int taps, class T>
__global__ void forward(Work work, Operands<T> in, Rows<T> y) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  if (channel >= y.width) return;
  const Filter<taps, n> filter(in, channel);
  work.for_each_piece(blockIdx.y, [&](const Piece& piece) {
    Window<taps, n> x = window_before<taps, n>(in, piece, channel);
    for (int64_t t = 0; t < piece.tokens; t += kAhead) {
      Pack<T, n> next[kAhead] = {};
      for (int k = 0; k < kAhead; ++k)
        if (t + k < piece.tokens) next[k] = load_pack<n>(in.x[piece.first + t + k] + channel);
      for (int k = 0; k < kAhead; ++k) {
        if (t + k >= piece.tokens) continue;
        x.push(next[k]);
        Pack<float, n> out = filter.along(x);
        for (int i = 0; i < n; ++i) out.v[i] = silu(out.v[i]).value;
        store_pack(y[piece.first + t + k] + channel, rounded<T>(out));
      }
    }
  });
}

// Where gradients go; null: not wanted.
struct Sums {
  float *weight, *bias;  // a part of each a task
  float* halo;           // [slots, taps - 1, C]
};

// A thread walks on over the taps - 1 tokens after its piece, which see the last of the piece.
template <int n, int taps, class T>
__global__ void backward(Work work, Operands<T> in, Rows<T> dy, Rows<T> dx, Sums sums) {
  const int64_t channel = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  if (channel >= dx.width) return;
  const Filter<taps, n> filter(in, channel);
  float d_weight[taps][n] = {}, d_bias[n] = {};
  work.for_each_piece(blockIdx.y, [&](const Piece& piece) {
    Window<taps, n> x = window_before<taps, n>(in, piece, channel), dz;
    const int64_t of_run = piece.tokens + piece.after, end = piece.tokens + taps - 1;
    for (int64_t t = 0; t < end; t += kAhead) {
      Pack<T, n> next[kAhead] = {}, gradient[kAhead] = {};
      for (int k = 0; k < kAhead; ++k)
        if (t + k < of_run) {
          next[k] = load_pack<n>(in.x[piece.first + t + k] + channel);
          gradient[k] = load_pack<n>(dy[piece.first + t + k] + channel);
        }
      for (int k = 0; k < kAhead; ++k) {
        if (t + k >= end) continue;
        Pack<float, n> d{};
        if (t + k < of_run) {
          x.push(next[k]);
          const Pack<float, n> z = filter.along(x);
          for (int i = 0; i < n; ++i) d.v[i] = float(gradient[k].v[i]) * silu(z.v[i]).slope;
        }
        dz.push(d);
        if (t + k < piece.tokens)
          for (int i = 0; i < n; ++i) {
            d_bias[i] += d.v[i];
            for (int j = 0; j < taps; ++j) d_weight[j][i] += d.v[i] * x.v[j][i];
          }
        const int64_t token = t + k - (taps - 1);  // all that see it have been met
        if (token >= 0)
          store_pack(dx[piece.first + token] + channel, rounded<T>(filter.against(dz)));
        else if (piece.slot >= 0)
          store_pack(sums.halo + ((piece.slot + 1) * (taps - 1) + token) * dx.width + channel, filter.against(dz));
      }
    }
  });
  for (int i = 0; i < n; ++i) {
    if (sums.bias) sums.bias[blockIdx.y * dx.width + channel + i] = d_bias[i];
    for (int j = 0; j < taps; ++j)
      if (sums.weight) sums.weight[(blockIdx.y * dx.width + channel + i) * taps + j] = d_weight[j][i];
  }
}

// d_halo [E, row] += the gradients [first_slot[e], first_slot[e + 1]) of the runs that enter from row e.
__global__ void add_slots(int64_t items, int64_t row, const int64_t* first_slot, const float* slots, float* d_halo) {
  for_each_item(items, [&](int64_t item) {
    const int64_t e = item / row, element = item - e * row;
    float sum = 0;
    for (int64_t slot = first_slot[e]; slot < first_slot[e + 1]; ++slot) sum += slots[slot * row + element];
    d_halo[item] += sum;
  });
}

// ---- the host's side

// Calls body.operator()<taps>() for the number that there are.
template <int taps = 1, class Body>
void with_taps(int64_t given, const Body& body) {
  if (given == taps) return body.template operator()<taps>();
  if constexpr (taps < kMostTaps)
    with_taps<taps + 1>(given, body);
  else
    throw ShapeError(fmt::format("causal_conv1d: weight: expected at most {} taps on a GPU, given {}", kMostTaps, given));
}

// The channels of a thread, whose registers they and their taps must fit.
template <int taps>
constexpr int kMostChannels = taps <= 4 ? kChannels : 1;

// The operands of a launch, the parameters dense.
template <class T>
struct Given {
  Tensor weight, bias;
  Operands<T> operands;

  template <class Args>
  explicit Given(const Args& args)
      : weight(args.weight.packed()),
        bias(args.bias.packed()),
        operands{.x = rows_of<T>(args.x, "causal_conv1d: x"),
                 .weight = weight.template data<T>(),
                 .bias = bias.template data<T>(),
                 .halo = args.halo ? rows_of<T>(args.halo) : Rows<T>{nullptr, 0, args.x.dim(2), args.x.dim(2)}} {}
};

template <class T>
void run_forward(const CausalConv1dForward& args) {
  if (args.y.numel() == 0) return;
  const Given<T> given(args);
  const Operands<T>& in = given.operands;
  const auto y = rows_of<T>(args.y);
  with_taps(args.weight.dim(1), [&]<int taps>() {
    with_packs<kMostChannels<taps>>(
        [&]<int n>() {
          constexpr int64_t kMostTasks = 65535;  // of a grid
          const Tiles tiles = tiles_of(y.width, n);
          const Plan plan = plan_of(args.runs, {}, args.x.dim(1), taps, tokens_of_task(y.count, tiles.count, kMostTasks));
          run(forward<n, taps, T>,
              {.blocks = dim3(static_cast<unsigned>(tiles.count), static_cast<unsigned>(plan.tasks())), .threads = dim3(tiles.threads)},
              plan.work(), in, y);
        },
        in.x, in.halo, y);
  });
}

// Slots for the runs that enter, ordered by the row of the halo from which they do.
struct Slots {
  std::vector<int64_t> of_run, first_of_row;

  Slots(const Runs& runs, int64_t halo_rows) : of_run(runs.size(), -1), first_of_row(static_cast<size_t>(halo_rows) + 1) {
    const auto enters = [](const Run& run) { return !run.opens() && run.length > 0; };
    for (const Run& run : runs)
      if (enters(run)) ++first_of_row[static_cast<size_t>(run.enters) + 1];
    std::partial_sum(first_of_row.begin(), first_of_row.end(), first_of_row.begin());
    std::vector<int64_t> next = first_of_row;
    for (size_t r = 0; r < runs.size(); ++r)
      if (enters(runs[r])) of_run[r] = next[static_cast<size_t>(runs[r].enters)]++;
  }
};

template <class T>
void run_backward(const CausalConv1dBackward& args) {
  if (args.dx.numel() == 0) return;
  const Given<T> given(args);
  const Operands<T>& in = given.operands;
  const auto dy = rows_of<T>(args.dy, "causal_conv1d: dy"), dx = rows_of<T>(args.dx, "causal_conv1d: dx");
  const Slots slots(args.d_halo ? args.runs : Runs(), args.d_halo ? args.d_halo.dim(0) : 0);
  const auto empty = [](bool wanted, const Shape& shape) { return wanted ? Tensor::empty(shape, DType::kFloat32, Cuda{}) : Tensor(); };
  const auto floats = [](const Tensor& x) { return x ? x.data<float>() : nullptr; };
  with_taps(args.weight.dim(1), [&]<int taps>() {
    with_packs<kMostChannels<taps>>(
        [&]<int n>() {
          const Tiles tiles = tiles_of(dx.width, n);
          const Plan plan = plan_of(args.runs, slots.of_run, args.x.dim(1), taps, tokens_of_task(dx.count, tiles.count, kMostParts));
          const Tensor d_weight = empty(bool(args.d_weight), {plan.tasks(), dx.width * taps}),
                       d_bias = empty(bool(args.d_bias), {plan.tasks(), dx.width}),
                       d_halo = empty(bool(args.d_halo), {slots.first_of_row.back(), taps - 1, dx.width});
          run(backward<n, taps, T>,
              {.blocks = dim3(static_cast<unsigned>(tiles.count), static_cast<unsigned>(plan.tasks())), .threads = dim3(tiles.threads)},
              plan.work(), in, dy, dx, Sums{.weight = floats(d_weight), .bias = floats(d_bias), .halo = floats(d_halo)});
          if (d_weight) add_parts(d_weight, args.d_weight);
          if (d_bias) add_parts(d_bias, args.d_bias);
          if (d_halo)
            run(add_slots, grid_for(args.d_halo.numel()), args.d_halo.numel(), (taps - 1) * dx.width, upload(slots.first_of_row).data,
                floats(d_halo), floats(args.d_halo));
        },
        in.x, in.halo, dy, dx);
  });
}

}  // namespace

void launch(Cuda, const CausalConv1dForward& args) {
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run_forward<T>(args); });
}

void launch(Cuda, const CausalConv1dBackward& args) {
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run_backward<T>(args); });
}

}  // namespace ropewalk
