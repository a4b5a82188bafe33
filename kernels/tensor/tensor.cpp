#include "kernels/tensor/tensor.h"

#include <algorithm>
#include <utility>

#include "kernels/strided/strided.h"
#include "kernels/tensor/memory.h"

namespace ropewalk {
namespace {

Shape dense_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

}  // namespace

Storage::Storage(size_t bytes, Device device) : block_(allocate(device, bytes)), bytes_(bytes), device_(device) {}

Storage::Storage(std::shared_ptr<void> owner, void* block, size_t bytes) : owner_(std::move(owner)), block_(block), bytes_(bytes) {}

Storage::~Storage() {
  if (completion_) {
    try {
      complete();  // somebody may still be writing into the block
    } catch (...) {
      return;  // the peer is gone: the block stays allocated, since the transport may still own it
    }
  }
  if (!owner_) release(device_, block_, bytes_);
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

Tensor Tensor::to(Device to) const {
  if (to == device()) return *this;
  Tensor moved = empty(shape_, dtype_, to);
  moved.copy_from(*this);
  return moved;
}

void Tensor::copy_from(const Tensor& source) const {
  expect(shape_ == source.shape_, "copy_from: expected {}, given {}", shape_, source.shape_);
  if (device() == source.device()) return compute(device(), Copy{.to = *this, .from = source});
  const Tensor dense = source.to(dtype_).packed(), received = contiguous() ? *this : empty(shape_, dtype_, device());
  copy_bytes(received.raw(), device(), dense.raw(), dense.device(), static_cast<size_t>(bytes()));
  if (!contiguous()) copy_from(received);
}

void Tensor::fill(double value) const { compute(device(), Fill{.to = *this, .value = value}); }

void Tensor::add(const Tensor& other) const {
  expect(shape_ == other.shape_, "add: expected {}, given {}", shape_, other.shape_);
  compute(device(), AddTo{.sum = *this, .addend = other});
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
