#include "kernels/tensor/tensor.h"

#include <algorithm>
#include <utility>

#include "kernels/tensor/allocator.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task: below it, threads cost more than they give

Shape dense_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

struct DimOfTwo {
  int64_t extent, x_stride, y_stride;
};

// The dims of two equally shaped views, outermost first: without those of extent 1, and as one where both views run on across a border.
std::vector<DimOfTwo> merged_dims(const Tensor& x, const Tensor& y) {
  std::vector<DimOfTwo> dims;
  for (int d = 0; d < x.rank(); ++d) {
    const DimOfTwo inner{x.dim(d), x.stride(d), y.stride(d)};
    if (inner.extent == 1) continue;
    if (!dims.empty() && dims.back().x_stride == inner.extent * inner.x_stride && dims.back().y_stride == inner.extent * inner.y_stride)
      dims.back() = {dims.back().extent * inner.extent, inner.x_stride, inner.y_stride};
    else
      dims.push_back(inner);
  }
  if (dims.empty()) dims.push_back({1, 1, 1});
  return dims;
}

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

Storage::Storage(size_t bytes, Device device) : block_(Allocator::host().allocate(bytes)), bytes_(bytes), device_(device) {}

Storage::Storage(std::shared_ptr<void> owner, void* block, size_t bytes) : owner_(std::move(owner)), block_(block), bytes_(bytes) {}

Storage::~Storage() {
  if (completion_) {
    try {
      complete();  // somebody may still be writing into the block
    } catch (...) {
      return;  // the peer is gone: the block stays allocated, since the transport may still own it
    }
  }
  if (!owner_) Allocator::host().release(block_, bytes_);
}

void Storage::pend(std::function<void()> completion) { completion_ = std::move(completion); }

void Storage::complete() {
  const auto completion = std::exchange(completion_, nullptr);
  completion();
}

Tensor Tensor::dense(const Shape& shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.strides_ = dense_strides(shape);
  t.dtype_ = dtype;
  return t;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t = dense(shape, dtype);
  t.storage_ = std::make_shared<Storage>(static_cast<size_t>(t.bytes()), device);
  return t;
}

Tensor Tensor::over(std::shared_ptr<void> owner, void* data, const Shape& shape, DType dtype) {
  Tensor t = dense(shape, dtype);
  t.storage_ = std::make_shared<Storage>(std::move(owner), data, static_cast<size_t>(t.bytes()));
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) { return full(shape, 0, dtype, device); }

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

bool Tensor::contiguous() const {
  int64_t step = 1;
  for (int d = rank() - 1; d >= 0; --d) {
    if (shape_[d] != 1 && strides_[d] != step) return false;
    step *= shape_[d];
  }
  return true;
}

void* Tensor::raw() const {
  expect(storage_ != nullptr, "tensor: data of an empty handle");
  return static_cast<char*>(storage_->data()) + offset_ * static_cast<int64_t>(size_of(dtype_));
}

void Tensor::pend(std::function<void(const Tensor&)> completion) const {
  Tensor unowned = *this;  // a completion that owned its own storage would never be let go
  unowned.storage_ = std::shared_ptr<Storage>(std::shared_ptr<void>(), storage_.get());
  storage_->pend([unowned, completion = std::move(completion)] { completion(unowned); });
}

void Tensor::check_dtype(DType expected) const { expect(dtype_ == expected, "tensor: expected {}, given {}", expected, dtype_); }

Tensor Tensor::narrow(int d, int64_t begin, int64_t length) const {
  expect(begin >= 0 && length >= 0 && begin + length <= dim(d), "narrow: dim {} of {} has no [{}, {})", d, shape_, begin, begin + length);
  Tensor view = *this;
  view.shape_[d] = length;
  view.offset_ += begin * stride(d);
  return view;
}

Tensor Tensor::select(int d, int64_t index) const {
  Tensor view = narrow(d, index, 1);
  d = shape_.index(d);
  Shape shape, strides;
  for (int i = 0; i < rank(); ++i) {
    if (i == d) continue;
    shape = shape.then({shape_[i]});
    strides = strides.then({strides_[i]});
  }
  view.shape_ = shape;
  view.strides_ = strides;
  return view;
}

Tensor Tensor::split_dim(int d, int64_t inner) const {
  d = shape_.index(d);
  expect(inner > 0 && dim(d) % inner == 0, "split_dim: dim {} of {} is no multiple of {}", d, shape_, inner);
  Tensor view = *this;
  view.shape_ = view.strides_ = Shape{};
  for (int i = 0; i < rank(); ++i) {
    view.shape_ = i == d ? view.shape_.then({shape_[i] / inner, inner}) : view.shape_.then({shape_[i]});
    view.strides_ = i == d ? view.strides_.then({strides_[i] * inner, strides_[i]}) : view.strides_.then({strides_[i]});
  }
  return view;
}

// Walks both shapes from the back; each group of new dims must tile a group of old dims that is dense in itself.
Tensor Tensor::reshape(const Shape& shape) const {
  expect(shape.numel() == numel(), "reshape: {} has {} elements, {} has {}", shape_, numel(), shape, shape.numel());
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = dense_strides(shape);
  if (contiguous()) return view;
  int old_dim = rank() - 1;
  for (int d = shape.rank() - 1; d >= 0;) {
    while (old_dim >= 0 && shape_[old_dim] == 1) --old_dim;
    if (shape[d] == 1) {
      view.strides_[d--] = 1;
      continue;
    }
    int64_t group = shape_[old_dim], step = strides_[old_dim], filled = 1;
    for (; d >= 0 && (filled < group || shape[d] == 1); --d) {
      while (filled * shape[d] > group) {  // take more old dims into the group
        const int64_t next = --old_dim;
        expect(next >= 0 && strides_[next] == strides_[next + 1] * shape_[next + 1], "reshape: {} is not viewable as {}", shape_, shape);
        group *= shape_[next];
      }
      view.strides_[d] = step * filled;
      filled *= shape[d];
    }
    expect(filled == group, "reshape: {} is not viewable as {}", shape_, shape);
    --old_dim;
  }
  return view;
}

Tensor Tensor::contiguous_copy() const {
  Tensor copy = empty(shape_, dtype_, device());
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor converted = empty(shape_, dtype, device());
  converted.copy_from(*this);
  return converted;
}

void Tensor::copy_from(const Tensor& source) const {
  expect(shape_ == source.shape_, "copy_from: expected {}, given {}", shape_, source.shape_);
  if (dtype_ == source.dtype_) {
    switch (size_of(dtype_)) {
      case 8: return dtype_ == DType::kInt64 ? convert<int64_t, int64_t>(*this, source) : convert<double, double>(*this, source);
      case 4: return dtype_ == DType::kInt32 ? convert<int32_t, int32_t>(*this, source) : convert<float, float>(*this, source);
      case 2: return convert<bfloat16, bfloat16>(*this, source);
      default: return convert<uint8_t, uint8_t>(*this, source);
    }
  }
  dispatch_float(dtype_, [&]<class To>(std::type_identity<To>) {
    dispatch_float(source.dtype_, [&]<class From>(std::type_identity<From>) { convert<To, From>(*this, source); });
  });
}

void Tensor::fill(double value) const {
  const auto set = [&]<class T>(std::type_identity<T>) {
    for_each_stretch<T, T>(*this, *this, [value = static_cast<T>(static_cast<Wide<T>>(value))](int64_t n, Stretch<T> to, Stretch<T>) {
      vectorized<fill_stretch<T>>(n, value, to);
    });
  };
  switch (dtype_) {
    case DType::kInt64: return set(std::type_identity<int64_t>{});
    case DType::kInt32: return set(std::type_identity<int32_t>{});
    case DType::kUInt8: return set(std::type_identity<uint8_t>{});
    default: return dispatch_float(dtype_, set);
  }
}

void Tensor::add(const Tensor& other) const {
  expect(shape_ == other.shape_, "add: expected {}, given {}", shape_, other.shape_);
  dispatch_float(dtype_, [&]<class T>(std::type_identity<T>) {
    dispatch_float(other.dtype_,
                   [&]<class U>(std::type_identity<U>) { for_each_stretch<T, U>(*this, other, vectorized<add_stretch<T, U>>); });
  });
}

double Tensor::item() const {
  expect(numel() == 1, "item: expected one element, given {}", shape_);
  return to_vector<double>().front();
}

Tensor empty_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }
Tensor zeros_like(const Tensor& x) { return Tensor::zeros(x.shape(), x.dtype(), x.device()); }

Tensor concat(const Tensors& parts, int d) {
  expect(!parts.empty(), "concat: no parts");
  int64_t extent = 0;
  for (const Tensor& part : parts) extent += part.dim(d);
  Tensor whole = Tensor::empty(parts[0].shape().with(d, extent), parts[0].dtype(), parts[0].device());
  int64_t at = 0;
  for (const Tensor& part : parts) {
    whole.narrow(d, at, part.dim(d)).copy_from(part);
    at += part.dim(d);
  }
  return whole;
}

bool is_rows(const Tensor& x) {
  if (x.numel() == 0) return true;
  if (x.rank() == 0 || (x.dim(-1) != 1 && x.stride(-1) != 1)) return false;
  int64_t expected = -1;  // the stride that the next outer dim must have
  for (int d = x.rank() - 2; d >= 0; --d) {
    if (x.dim(d) == 1) continue;
    if (expected >= 0 && x.stride(d) != expected) return false;
    expected = x.stride(d) * x.dim(d);
  }
  return true;
}

int64_t row_stride(const Tensor& x, const char* what) {
  expect(is_rows(x), "{}: {} is not rows of one stride", what, x.shape());
  for (int d = x.rank() - 2; d >= 0; --d)
    if (x.dim(d) != 1) return x.stride(d);
  return x.dim(-1);
}

}  // namespace ropewalk
