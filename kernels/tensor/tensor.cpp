#include "kernels/tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/tensor/allocator.h"
#include "kernels/tensor/parallel_for.h"

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

// Calls body(offset of x, offset of y, length) for each dense stretch along the last dim of two equally shaped views.
template <class Body>
void for_each_row(const Tensor& x, const Tensor& y, const Body& body) {
  if (x.numel() == 0) return;
  if (x.rank() == 0) return body(0, 0, 1);
  const int64_t width = x.dim(-1), rows = x.numel() / width;
  parallel_ranges(rows, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t rest = row, at_x = 0, at_y = 0;
      for (int d = x.rank() - 2; d >= 0; --d) {
        at_x += rest % x.dim(d) * x.stride(d);
        at_y += rest % x.dim(d) * y.stride(d);
        rest /= x.dim(d);
      }
      body(at_x, at_y, width);
    }
  });
}

int64_t last_stride(const Tensor& x) { return x.rank() == 0 ? 1 : x.stride(-1); }

template <class To, class From>
void convert(const Tensor& to, const Tensor& from) {
  To* target = to.data<To>();
  const From* source = from.data<From>();
  const int64_t step_to = last_stride(to), step_from = last_stride(from);
  for_each_row(to, from, [=](int64_t at_to, int64_t at_from, int64_t n) {
    if constexpr (std::is_same_v<To, From>) {
      if (step_to == 1 && step_from == 1) {
        std::copy_n(source + at_from, n, target + at_to);
        return;
      }
    }
    using Via = std::conditional_t<std::is_same_v<To, bfloat16>, float, To>;
    for (int64_t i = 0; i < n; ++i) target[at_to + i * step_to] = To(static_cast<Via>(source[at_from + i * step_from]));
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

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  std::memset(t.raw(), 0, static_cast<size_t>(t.bytes()));
  return t;
}

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
    T* target = data<T>();
    const int64_t step = last_stride(*this);
    for_each_row(*this, *this, [=](int64_t at, int64_t, int64_t n) {
      for (int64_t i = 0; i < n; ++i) target[at + i * step] = static_cast<T>(static_cast<Wide<T>>(value));
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
    dispatch_float(other.dtype_, [&]<class U>(std::type_identity<U>) {
      T* sum = data<T>();
      const U* addend = other.data<U>();
      const int64_t step = last_stride(*this), other_step = last_stride(other);
      for_each_row(*this, other, [=](int64_t at, int64_t other_at, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          T& s = sum[at + i * step];
          s = static_cast<T>(static_cast<Wide<T>>(s) + static_cast<Wide<T>>(addend[other_at + i * other_step]));
        }
      });
    });
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
