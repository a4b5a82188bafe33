#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/rope/rope.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

// cos and sin of the angles at positions [0, count), `half` cosines and then `half` sines a position.
template <class W>
struct Angles {
  Angles(double theta, int64_t half, int64_t count);
  const W* at(int64_t position) const { return table.data() + 2 * half * position; }

  int64_t half, count;
  std::vector<W> table;
};

template <class W>
Angles<W>::Angles(double theta, int64_t half, int64_t count) : half(half), count(count), table(static_cast<size_t>(2 * half * count)) {
  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) frequency[i] = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
  parallel_ranges(count, 32, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * frequency[i];
        table[2 * half * p + i] = static_cast<W>(std::cos(angle));
        table[2 * half * p + half + i] = static_cast<W>(std::sin(angle));
      }
  });
}

// Kept for the launches to come, all layers of a model turn alike; made anew, twice as long, where a longer document comes.
template <class W>
std::shared_ptr<const Angles<W>> angles_of(double theta, int64_t half, int64_t count) {
  static std::mutex mutex;
  static std::map<std::pair<double, int64_t>, std::shared_ptr<const Angles<W>>> kept;
  const std::scoped_lock lock(mutex);
  std::shared_ptr<const Angles<W>>& angles = kept[{theta, half}];
  if (!angles || angles->count < count)
    angles = std::make_shared<const Angles<W>>(theta, half, std::max(count, angles ? 2 * angles->count : 0));
  return angles;
}

// A head's width, and half of what of it turns.
struct HeadShape {
  int64_t width, half;
};

// The heads of one token.
template <class T>
void rotate(int64_t heads, HeadShape shape, const T* x, int64_t x_stride, const Wide<T>* cosine, const Wide<T>* sine, Wide<T> turn, T* y,
            int64_t y_stride) {
  using W = Wide<T>;
  const int64_t half = shape.half;
  for (int64_t h = 0; h < heads; ++h, x += x_stride, y += y_stride) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const W first = W(x[i]), second = W(x[half + i]), s = turn * sine[i];
      store(y + i, first * cosine[i] - second * s);
      store(y + half + i, second * cosine[i] + first * s);
    }
    for (int64_t i = 2 * half; i < shape.width; ++i) y[i] = x[i];
  }
}

template <class T>
void run(const Rope& args) {
  if (args.x.numel() == 0) return;
  const int64_t length = args.x.dim(1), heads = args.x.dim(2), tokens = args.x.dim(0) * length;
  const HeadShape shape{.width = args.x.dim(3), .half = args.rotated / 2};
  const std::vector<int64_t> position = args.position.to_vector<int64_t>();
  const int64_t last = *std::max_element(position.begin(), position.end());
  const auto angles = angles_of<Wide<T>>(args.theta, shape.half, last + 1);
  const auto turn = static_cast<Wide<T>>(args.turn);
  const T* const x = args.x.data<T>();
  T* const y = args.y.data<T>();
  const auto at = [&](const Tensor& tensor, int64_t token) {
    return token / length * tensor.stride(0) + token % length * tensor.stride(1);
  };
  parallel_ranges(tokens, std::max<int64_t>(1, kGrain / (heads * shape.width)), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      prefetch(heads * shape.width, x + at(args.x, token + 1));
      prefetch(heads * shape.width, y + at(args.y, token + 1));
      const auto* const cosine = angles->at(position[static_cast<size_t>(token)]);
      vectorized<rotate<T>>(heads, shape, x + at(args.x, token), args.x.stride(2), cosine, cosine + shape.half, turn, y + at(args.y, token),
                            args.y.stride(2));
    }
  });
}

}  // namespace

void launch(Cpu, const Rope& args) {
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace ropewalk
