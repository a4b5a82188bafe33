#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/rope/rope.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

// cos and sin of each pair's angle at one position, `half` of each.
template <class W>
struct Turns {
  Turns(const Rope& args, int64_t half);
  const W* at(int64_t token) const { return table.data() + 2 * half * entry[static_cast<size_t>(token)]; }

  int64_t half;
  std::vector<int64_t> entry;  // by token: tokens at the same position of their documents share one
  std::vector<W> table;        // by distinct position: cosines, then sines
};

template <class W>
Turns<W>::Turns(const Rope& args, int64_t half) : half(half), entry(args.position.to_vector<int64_t>()) {
  std::vector<int64_t> distinct = entry;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (int64_t& e : entry) e = std::lower_bound(distinct.begin(), distinct.end(), e) - distinct.begin();

  std::vector<double> frequency(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) frequency[i] = args.turn * std::pow(args.theta, -static_cast<double>(i) / static_cast<double>(half));
  table.resize(2 * static_cast<size_t>(half) * distinct.size());
  parallel_ranges(static_cast<int64_t>(distinct.size()), 32, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(distinct[p]) * frequency[i];
        table[2 * half * p + i] = static_cast<W>(std::cos(angle));
        table[2 * half * p + half + i] = static_cast<W>(std::sin(angle));
      }
  });
}

// A head's width, and half of what of it turns.
struct HeadShape {
  int64_t width, half;
};

// The heads of one token; y is dense.
template <class T>
void rotate(int64_t heads, HeadShape shape, const T* x, int64_t x_stride, const Wide<T>* cosine, const Wide<T>* sine, T* y) {
  using W = Wide<T>;
  const int64_t half = shape.half;
  for (int64_t h = 0; h < heads; ++h, x += x_stride, y += shape.width) {
    for (int64_t i = 0; i < half; ++i) {
      const W first = W(x[i]), second = W(x[half + i]);
      y[i] = T(first * cosine[i] - second * sine[i]);
      y[half + i] = T(second * cosine[i] + first * sine[i]);
    }
    for (int64_t i = 2 * half; i < shape.width; ++i) y[i] = x[i];
  }
}

template <class T>
void run(const Rope& args) {
  const int64_t length = args.x.dim(1), heads = args.x.dim(2);
  const HeadShape shape{.width = args.x.dim(3), .half = args.rotated / 2};
  const Turns<Wide<T>> turns(args, shape.half);
  const T* x = args.x.data<T>();
  T* y = args.y.data<T>();
  parallel_ranges(
      args.x.dim(0) * length, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, heads * shape.width)), [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; ++token) {
          const T* x_HP = x + token / length * args.x.stride(0) + token % length * args.x.stride(1);
          const auto* cosine = turns.at(token);
          vectorized<rotate<T>>(heads, shape, x_HP, args.x.stride(2), cosine, cosine + shape.half, y + token * heads * shape.width);
        }
      });
}

}  // namespace

void launch(Cpu, const Rope& args) {
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace ropewalk
