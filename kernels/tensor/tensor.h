// A Tensor is a handle on a strided view of shared storage; copies are the same tensor. An empty handle means "no tensor".
//
// Storage may be *pending*: a collective returns its result at once, and the first reader of the data completes it.
// Shape and dtype are known at once; only data() waits.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/tensor/device.h"
#include "kernels/tensor/dtype.h"
#include "kernels/tensor/shape.h"

namespace ropewalk {

class Storage {
 public:
  Storage(size_t bytes, Device device);
  // Memory that `owner` keeps: shared with other processes, say.
  Storage(std::shared_ptr<void> owner, void* block, size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() {
    if (completion_) [[unlikely]]
      complete();
    return block_;
  }
  void* block() const { return block_; }  // without completing: for who fills the storage
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  // The bytes become valid when `completion` has run: at the first data(), or at destruction.
  void pend(std::function<void()> completion);
  bool pending() const { return completion_ != nullptr; }

 private:
  void complete();

  std::shared_ptr<void> owner_;  // null: the block is the host allocator's
  void* block_;
  size_t bytes_;
  Device device_;
  std::function<void()> completion_;
};

class Tensor {
 public:
  Tensor() = default;

  static Tensor empty(const Shape& shape, DType dtype, Device device = {});
  // Dense, in memory that `owner` keeps for as long as the tensor lives.
  static Tensor over(std::shared_ptr<void> owner, void* data, const Shape& shape, DType dtype);
  static Tensor zeros(const Shape& shape, DType dtype, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype, Device device = {});
  template <class T>
  static Tensor from(const Shape& shape, const std::vector<T>& values);

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int d) const { return shape_[d]; }
  int64_t stride(int d) const { return strides_[shape_.index(d)]; }  // in elements
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return numel() * static_cast<int64_t>(size_of(dtype_)); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_->device(); }
  bool contiguous() const;

  // The first element. Waits for pending storage; checks that T is the dtype.
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>());
    return static_cast<T*>(raw());
  }
  void* raw() const;  // data() without a type
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  // Storage::pend for a completion that fills this tensor: it is handed the tensor, which it must not keep.
  void pend(std::function<void(const Tensor&)> completion) const;

  // Views of the same storage.
  Tensor narrow(int d, int64_t begin, int64_t length) const;  // a range of one dim
  Tensor select(int d, int64_t index) const;                  // one index of a dim, which is dropped
  Tensor reshape(const Shape& shape) const;                   // throws where no view of that shape exists
  Tensor split_dim(int d, int64_t inner) const;               // [.., n, ..] -> [.., n / inner, inner, ..]; always a view

  Tensor contiguous_copy() const;  // always a new tensor
  Tensor packed() const { return contiguous() ? *this : contiguous_copy(); }
  Tensor to(DType dtype) const;                // itself where the dtype is the same already
  Tensor to(Device device) const;              // itself where it lies there already
  void copy_from(const Tensor& source) const;  // same shape; converts between floating-point types, and moves between devices
  void fill(double value) const;
  void add(const Tensor& other) const;  // += other, same shape, both floating point

  // The single element of a tensor with one; any numeric dtype.
  double item() const;
  // All elements in order, as T.
  template <class T>
  std::vector<T> to_vector() const;

 private:
  static Tensor dense(const Shape& shape, DType dtype);  // without storage yet
  void check_dtype(DType expected) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // in elements
  Shape shape_, strides_;
  DType dtype_ = DType::kFloat32;
};

using Tensors = std::vector<Tensor>;

Tensor empty_like(const Tensor& x);
Tensor zeros_like(const Tensor& x);
Tensor concat(const Tensors& parts, int d);

// A tensor seen as rows: all dims but the last fold into one with a single stride; the last is dense.
// Every op takes its [..., C] operands this way, so a slice of a fused projection needs no copy.
template <class T>
struct Rows {
  T* data;
  int64_t count, width, stride;
  constexpr T* operator[](int64_t row) const { return data + row * stride; }
};
bool is_rows(const Tensor& x);
int64_t row_stride(const Tensor& x, const char* what);  // throws ShapeError where x is not rows
template <class T>
Rows<T> rows_of(const Tensor& x, const char* what = "tensor") {
  const int64_t width = x.dim(-1);
  return {x.data<T>(), width == 0 ? 0 : x.numel() / width, width, row_stride(x, what)};
}

template <class T>
Tensor Tensor::from(const Shape& shape, const std::vector<T>& values) {
  Tensor t = empty(shape, dtype_of<T>());
  expect(static_cast<int64_t>(values.size()) == t.numel(), "tensor: {} takes {} values, given {}", shape, t.numel(), values.size());
  std::copy(values.begin(), values.end(), t.data<T>());
  return t;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const Tensor dense = packed().to(Device());
  const auto take = [&]<class U>(std::type_identity<U>) { return std::vector<T>(dense.data<U>(), dense.data<U>() + dense.numel()); };
  switch (dtype_) {
    case DType::kInt64: return take(std::type_identity<int64_t>{});
    case DType::kInt32: return take(std::type_identity<int32_t>{});
    case DType::kUInt8: return take(std::type_identity<uint8_t>{});
    default: return dispatch_float(dtype_, take);
  }
}

}  // namespace ropewalk
