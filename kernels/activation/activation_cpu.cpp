#include <algorithm>
#include <numbers>

#include "kernels/activation/activation.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

// f(x) and f'(x)
template <class W>
struct Point {
  W value, slope;
};

struct Sigmoid {
  template <class W>
  static Point<W> at(W x) {
    const W s = sigmoid(x);
    return {s, s * (W(1) - s)};
  }
};

struct Silu {
  template <class W>
  static Point<W> at(W x) {
    const W s = sigmoid(x);
    return {x * s, s * (W(1) + x * (W(1) - s))};
  }
};

// Phi(x), given e^(-x^2/2). In double by the library's erfc; in float by Abramowitz & Stegun 7.1.26, whose error is below 1e-7.
inline double normal_distribution(double x, double) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
inline float normal_distribution(float x, float density) {
  const float t = 1.0f / (1.0f + 0.3275911f / std::numbers::sqrt2_v<float> * std::abs(x));
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * density;
  return x < 0 ? tail : 1.0f - tail;
}

struct Gelu {
  template <class W>
  static Point<W> at(W x) {
    constexpr W kInverseRoot = std::numbers::inv_sqrtpi_v<W> / std::numbers::sqrt2_v<W>;  // 1 / sqrt(2 pi)
    const W density = fast_exp(W(-0.5) * x * x), phi = normal_distribution(x, density);
    return {x * phi, phi + x * density * kInverseRoot};
  }
};

// (1 + tanh(u)) / 2 = sigmoid(2u)
struct GeluTanh {
  template <class W>
  static Point<W> at(W x) {
    constexpr W kRoot = std::numbers::sqrt2_v<W> * std::numbers::inv_sqrtpi_v<W>;  // sqrt(2 / pi)
    constexpr W kCube = W(0.044715);
    const W s = sigmoid(2 * kRoot * (x + kCube * x * x * x));
    return {x * s, s + x * s * (W(1) - s) * 2 * kRoot * (W(1) + 3 * kCube * x * x)};
  }
};

struct Relu2 {
  template <class W>
  static Point<W> at(W x) {
    const W positive = std::max(x, W(0));
    return {positive * positive, 2 * positive};
  }
};

template <class F, class T>
void forward_row(int64_t n, const T* x, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, F::at(Wide<T>(x[i])).value);
}

template <class F, class T>
void backward_row(int64_t n, const T* dy, const T* x, T* dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(dx + i, Wide<T>(dy[i]) * F::at(Wide<T>(x[i])).slope);
}

template <class F, class T>
void gated_forward_row(int64_t n, const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, Wide<T> scale, T* y) {
  for_lines<T>(
      n,
      [&](int64_t i) {
        prefetch_line(gate + gate_stride + i);
        prefetch_line(up + up_stride + i);
        prefetch_line(y + n + i);
      },
      [&](int64_t i) { store(y + i, F::at(scale * Wide<T>(gate[i])).value * Wide<T>(up[i])); });
}

template <class F, class T>
void gated_backward_row(int64_t n, const T* dy, const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, Wide<T> scale, T* dgate,
                        T* dup, int64_t d_stride) {
  using W = Wide<T>;
  for_lines<T>(
      n,
      [&](int64_t i) {
        prefetch_line(gate + gate_stride + i);
        prefetch_line(up + up_stride + i);
        prefetch_line(dy + n + i);
        prefetch_line(dgate + d_stride + i);
        prefetch_line(dup + d_stride + i);
      },
      [&](int64_t i) {
        const auto [value, slope] = F::at(scale * W(gate[i]));
        const W d = W(dy[i]);
        store(dup + i, d * value);
        store(dgate + i, d * W(up[i]) * scale * slope);
      });
}

template <class Body>
void for_rows(const Tensor& y, const Body& body) {
  const int64_t width = y.dim(-1);
  parallel_ranges(y.numel() / width, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

template <class F, class T>
void run(const ActivationForward& args) {
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  for_rows(args.y, [&](int64_t i) { vectorized<forward_row<F, T>>(y.width, x[i], y[i]); });
}

template <class F, class T>
void run(const ActivationBackward& args) {
  const Rows<T> dx = rows_of<T>(args.dx), dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
  for_rows(args.dx, [&](int64_t i) { vectorized<backward_row<F, T>>(dx.width, dy[i], x[i], dx[i]); });
}

template <class F, class T>
void run(const GatedActivationForward& args) {
  const Rows<T> y = rows_of<T>(args.y), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
  const auto scale = static_cast<Wide<T>>(args.scale);
  for_rows(args.y, [&](int64_t i) { vectorized<gated_forward_row<F, T>>(y.width, gate[i], gate.stride, up[i], up.stride, scale, y[i]); });
}

template <class F, class T>
void run(const GatedActivationBackward& args) {
  const Rows<T> dgate = rows_of<T>(args.dgate), dup = rows_of<T>(args.dup);
  const Rows<T> dy = rows_of<T>(args.dy), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
  const auto scale = static_cast<Wide<T>>(args.scale);
  for_rows(args.dgate, [&](int64_t i) {
    vectorized<gated_backward_row<F, T>>(dy.width, dy[i], gate[i], gate.stride, up[i], up.stride, scale, dgate[i], dup[i], dgate.stride);
  });
}

// Calls run<F, T>(args) for the function and the element type.
template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  if (like.numel() == 0) return;
  dispatch_float(like.dtype(), [&]<class T>(std::type_identity<T>) {
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

void launch(Cpu, const ActivationForward& args) { dispatch(args.y, args); }
void launch(Cpu, const ActivationBackward& args) { dispatch(args.dx, args); }
void launch(Cpu, const GatedActivationForward& args) { dispatch(args.y, args); }
void launch(Cpu, const GatedActivationBackward& args) { dispatch(args.dgate, args); }

}  // namespace ropewalk
