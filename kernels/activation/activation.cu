#include <numbers>

#include "kernels/activation/activation.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/rows.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

// f(x) and f'(x)
struct Point {
  float value, slope;
};

struct Sigmoid {
  __device__ static Point at(float x) {
    const float s = cuda::sigmoid(x);
    return {s, s * (1 - s)};
  }
};

struct Silu {
  __device__ static Point at(float x) {
    const float s = cuda::sigmoid(x);
    return {x * s, s * (1 + x * (1 - s))};
  }
};

// Phi by Abramowitz & Stegun 7.1.26, whose error is below 1e-7.
struct Gelu {
  __device__ static Point at(float x) {
    constexpr float kInverseRoot = std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;  // 1 / sqrt(2 pi)
    const float density = __expf(-0.5f * x * x), t = __fdividef(1.0f, 1.0f + 0.3275911f / std::numbers::sqrt2_v<float> * fabsf(x));
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * density, phi = x < 0 ? tail : 1.0f - tail;
    return {x * phi, phi + x * density * kInverseRoot};
  }
};

// (1 + tanh(u)) / 2 = sigmoid(2u)
struct GeluTanh {
  __device__ static Point at(float x) {
    constexpr float kRoot = std::numbers::sqrt2_v<float> * std::numbers::inv_sqrtpi_v<float>;  // sqrt(2 / pi)
    constexpr float kCube = 0.044715f;
    const float s = cuda::sigmoid(2 * kRoot * (x + kCube * x * x * x));
    return {x * s, s + x * s * (1 - s) * 2 * kRoot * (1 + 3 * kCube * x * x)};
  }
};

struct Relu2 {
  __device__ static Point at(float x) {
    const float positive = x < 0 ? 0.0f : x;  // a NaN stays one
    return {positive * positive, 2 * positive};
  }
};

template <int n, class F, class T>
__global__ void forward(Rows<T> y, Rows<T> x) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    const auto in = load_pack<n>(x[row] + column);
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(F::at(float(in.v[i])).value);
    store_pack(y[row] + column, out);
  });
}

template <int n, class F, class T>
__global__ void backward(Rows<T> dx, Rows<T> dy, Rows<T> x) {
  for_each_pack<n>(dx.count, dx.width, [&](int64_t row, int64_t column) {
    const auto in = load_pack<n>(x[row] + column), gradient = load_pack<n>(dy[row] + column);
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(float(gradient.v[i]) * F::at(float(in.v[i])).slope);
    store_pack(dx[row] + column, out);
  });
}

template <int n, class F, class T>
__global__ void gated_forward(Rows<T> y, Rows<T> gate, Rows<T> up, float scale) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    const auto g = load_pack<n>(gate[row] + column), u = load_pack<n>(up[row] + column);
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(F::at(scale * float(g.v[i])).value * float(u.v[i]));
    store_pack(y[row] + column, out);
  });
}

template <int n, class F, class T>
__global__ void gated_backward(Rows<T> dgate, Rows<T> dup, Rows<T> dy, Rows<T> gate, Rows<T> up, float scale) {
  for_each_pack<n>(dgate.count, dgate.width, [&](int64_t row, int64_t column) {
    const auto g = load_pack<n>(gate[row] + column), u = load_pack<n>(up[row] + column), d = load_pack<n>(dy[row] + column);
    Pack<T, n> of_gate, of_up;
    for (int i = 0; i < n; ++i) {
      const Point f = F::at(scale * float(g.v[i]));
      of_up.v[i] = static_cast<T>(float(d.v[i]) * f.value);
      of_gate.v[i] = static_cast<T>(float(d.v[i]) * float(u.v[i]) * scale * f.slope);
    }
    store_pack(dgate[row] + column, of_gate);
    store_pack(dup[row] + column, of_up);
  });
}

template <class F, class T>
void run(const ActivationForward& args) {
  const auto y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  with_packs<kPackWidth<T>>([&]<int n>() { cuda::run(forward<n, F, T>, grid_for(args.y.numel() / n), y, x); }, y, x);
}

template <class F, class T>
void run(const ActivationBackward& args) {
  const auto dx = rows_of<T>(args.dx), dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
  with_packs<kPackWidth<T>>([&]<int n>() { cuda::run(backward<n, F, T>, grid_for(args.dx.numel() / n), dx, dy, x); }, dx, dy, x);
}

template <class F, class T>
void run(const GatedActivationForward& args) {
  const auto y = rows_of<T>(args.y), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
  const auto scale = static_cast<float>(args.scale);
  with_packs<kPackWidth<T>>([&]<int n>() { cuda::run(gated_forward<n, F, T>, grid_for(args.y.numel() / n), y, gate, up, scale); }, y, gate,
                            up);
}

template <class F, class T>
void run(const GatedActivationBackward& args) {
  const auto dgate = rows_of<T>(args.dgate), dup = rows_of<T>(args.dup), dy = rows_of<T>(args.dy), gate = rows_of<T>(args.gate),
             up = rows_of<T>(args.up);
  const auto scale = static_cast<float>(args.scale);
  with_packs<kPackWidth<T>>(
      [&]<int n>() { cuda::run(gated_backward<n, F, T>, grid_for(args.dgate.numel() / n), dgate, dup, dy, gate, up, scale); }, dgate, dup,
      dy, gate, up);
}

// Calls run<F, T>(args) for the function and the element type.
template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  if (like.numel() == 0) return;
  dispatch_narrow(like.dtype(), [&]<class T>(std::type_identity<T>) {
    switch (args.f) {
      case Activation::kSigmoid: return run<Sigmoid, T>(args);
      case Activation::kSilu: return run<Silu, T>(args);
      case Activation::kGelu: return run<Gelu, T>(args);
      case Activation::kGeluTanh: return run<GeluTanh, T>(args);
      case Activation::kRelu2: return run<Relu2, T>(args);
    }
  });
}

}  // namespace

void launch(Cuda, const ActivationForward& args) { dispatch(args.y, args); }
void launch(Cuda, const ActivationBackward& args) { dispatch(args.dx, args); }
void launch(Cuda, const GatedActivationForward& args) { dispatch(args.y, args); }
void launch(Cuda, const GatedActivationBackward& args) { dispatch(args.dgate, args); }

}  // namespace ropewalk
