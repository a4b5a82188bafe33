// Element by element over views of one shape, whatever their strides: what Tensor's fill, copy_from and add are made of.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct Fill {
  const Tensor& to;
  double value;
};
// to = from, on one device. The dtypes are the same or both floating.
struct Copy {
  const Tensor &to, &from;
};
// sum += addend, in the wide type of the sum; both floating.
struct AddTo {
  const Tensor &sum, &addend;
};
void launch(Cpu, const Fill& args);
void launch(Cpu, const Copy& args);
void launch(Cpu, const AddTo& args);
void launch(Cuda, const Fill& args);
void launch(Cuda, const Copy& args);
void launch(Cuda, const AddTo& args);

// A dim of two equally shaped views.
struct DimOfTwo {
  int64_t extent, x_stride, y_stride;
};
// All of them, outermost first: without those of extent 1, and as one where both views run on across a border. At least one.
std::vector<DimOfTwo> merged_dims(const Tensor& x, const Tensor& y);

// Calls body with std::type_identity<T> for the dtype's type.
template <class Body>
void dispatch_any(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kInt64: return body(std::type_identity<int64_t>{});
    case DType::kInt32: return body(std::type_identity<int32_t>{});
    case DType::kUInt8: return body(std::type_identity<uint8_t>{});
    default: return dispatch_float(dtype, body);
  }
}

// Calls body.operator()<To, From>() for two dtypes that are the same or both floating.
template <class Body>
void dispatch_conversion(DType to, DType from, const Body& body) {
  if (to == from) return dispatch_any(to, [&]<class T>(std::type_identity<T>) { body.template operator()<T, T>(); });
  dispatch_float(to, [&]<class To>(std::type_identity<To>) {
    dispatch_float(from, [&]<class From>(std::type_identity<From>) { body.template operator()<To, From>(); });
  });
}

}  // namespace ropewalk
