#include <algorithm>

#include "kernels/strided/strided.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task: below it, threads cost more than they give

// `length` elements, `step` apart.
template <class T>
struct Stretch {
  T* data;
  int64_t step;
};

// Calls body(length, stretch of x, stretch of y) until all elements of two equally shaped views have been met.
template <class X, class Y, class Body>
void for_each_stretch(const Tensor& x, const Tensor& y, const Body& body) {
  X* const x_data = x.data<X>();
  Y* const y_data = y.data<Y>();
  if (x.numel() == 0) return;
  std::vector<DimOfTwo> outer = merged_dims(x, y);
  const DimOfTwo row = outer.back();
  outer.pop_back();
  const int64_t length = std::min(row.extent, kGrain), pieces = (row.extent + length - 1) / length, rows = x.numel() / row.extent;
  parallel_ranges(rows * pieces, std::max<int64_t>(1, kGrain / length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * length;
      int64_t rest = i / pieces, at_x = first * row.x_stride, at_y = first * row.y_stride;
      for (auto dim = outer.rbegin(); dim != outer.rend(); ++dim) {
        at_x += rest % dim->extent * dim->x_stride;
        at_y += rest % dim->extent * dim->y_stride;
        rest /= dim->extent;
      }
      body(std::min(length, row.extent - first), Stretch<X>{x_data + at_x, row.x_stride}, Stretch<Y>{y_data + at_y, row.y_stride});
    }
  });
}

// Calls body(element of x, element of y). The dense case, which vectorizes, stands alone.
template <class X, class Y, class Body>
[[gnu::always_inline]] inline void for_each_pair(int64_t n, Stretch<X> x, Stretch<Y> y, const Body& body) {
  if (x.step == 1 && y.step == 1)
    for (int64_t i = 0; i < n; ++i) body(x.data[i], y.data[i]);
  else
    for (int64_t i = 0; i < n; ++i) body(x.data[i * x.step], y.data[i * y.step]);
}

template <class T>
void fill_stretch(int64_t n, T value, Stretch<T> to) {
  if (to.step == 1)
    for (int64_t i = 0; i < n; ++i) to.data[i] = value;
  else
    for (int64_t i = 0; i < n; ++i) to.data[i * to.step] = value;
}

template <class To, class From>
void convert_stretch(int64_t n, Stretch<To> to, Stretch<From> from) {
  using Via = std::conditional_t<std::is_same_v<To, bfloat16>, float, To>;
  for_each_pair(n, to, from, [](To& target, const From& source) { target = To(static_cast<Via>(source)); });
}

template <class To, class From>
void add_stretch(int64_t n, Stretch<To> sum, Stretch<From> addend) {
  using W = Wide<To>;
  for_each_pair(n, sum, addend, [](To& target, const From& source) { target = To(static_cast<W>(target) + static_cast<W>(source)); });
}

template <class To, class From>
void convert(const Tensor& to, const Tensor& from) {
  for_each_stretch<To, From>(to, from, [](int64_t n, Stretch<To> target, Stretch<From> source) {
    if constexpr (std::is_same_v<To, From>) {
      if (target.step == 1 && source.step == 1) {
        std::copy_n(source.data, n, target.data);
        return;
      }
    }
    vectorized<convert_stretch<To, From>>(n, target, source);
  });
}

}  // namespace

void launch(Cpu, const Fill& args) {
  dispatch_any(args.to.dtype(), [&]<class T>(std::type_identity<T>) {
    for_each_stretch<T, T>(args.to, args.to,
                           [value = static_cast<T>(static_cast<Wide<T>>(args.value))](int64_t n, Stretch<T> to, Stretch<T>) {
                             vectorized<fill_stretch<T>>(n, value, to);
                           });
  });
}

void launch(Cpu, const Copy& args) {
  dispatch_conversion(args.to.dtype(), args.from.dtype(), [&]<class To, class From>() { convert<To, From>(args.to, args.from); });
}

void launch(Cpu, const AddTo& args) {
  dispatch_float(args.sum.dtype(), [&]<class T>(std::type_identity<T>) {
    dispatch_float(args.addend.dtype(),
                   [&]<class U>(std::type_identity<U>) { for_each_stretch<T, U>(args.sum, args.addend, vectorized<add_stretch<T, U>>); });
  });
}

}  // namespace ropewalk
