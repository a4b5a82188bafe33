// Element types of tensors, and the step from a run-time type to a template argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/error.h"
#include "kernels/tensor/bfloat16.h"

namespace ropewalk {

enum class DType : uint8_t { kFloat64, kFloat32, kBFloat16, kInt64, kInt32, kUInt8 };

inline size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64: return 8;
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kBFloat16: return 2;
    case DType::kUInt8: return 1;
  }
  return 0;
}

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return "fp64";
    case DType::kFloat32: return "fp32";
    case DType::kBFloat16: return "bf16";
    case DType::kInt64: return "int64";
    case DType::kInt32: return "int32";
    case DType::kUInt8: return "uint8";
  }
  return "?";
}

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<double>() {
  return DType::kFloat64;
}
template <>
constexpr DType dtype_of<float>() {
  return DType::kFloat32;
}
template <>
constexpr DType dtype_of<bfloat16>() {
  return DType::kBFloat16;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::kInt64;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kInt32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kUInt8;
}

// The type that statistics, states and gradient sums of T are kept in: double for double, float for the rest.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
inline DType wide(DType dtype) { return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

// Calls body with std::type_identity<T> for the floating-point type T that dtype names.
template <class Body>
decltype(auto) dispatch_float(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat64: return body(std::type_identity<double>{});
    case DType::kFloat32: return body(std::type_identity<float>{});
    case DType::kBFloat16: return body(std::type_identity<bfloat16>{});
    default: throw ShapeError(fmt::format("expected a floating-point tensor, given {}", name_of(dtype)));
  }
}

// The same for those that the CUDA halves compute with; fp64 is for proofs on the host.
template <class Body>
void dispatch_narrow(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32: return body(std::type_identity<float>{});
    case DType::kBFloat16: return body(std::type_identity<bfloat16>{});
    default: throw ShapeError(fmt::format("expected fp32 or bf16 on a GPU, given {}", name_of(dtype)));
  }
}
template <class Body>
void dispatch_narrow(DType x, DType y, const Body& body) {
  dispatch_narrow(x, [&]<class X>(std::type_identity<X>) {
    dispatch_narrow(y, [&]<class Y>(std::type_identity<Y>) { body.template operator()<X, Y>(); });
  });
}

// Calls body.operator()<X, Y>() for two such types; nothing where they do not share their wide type.
template <class Body>
void dispatch_floats(DType x, DType y, const Body& body) {
  dispatch_float(x, [&]<class X>(std::type_identity<X>) {
    dispatch_float(y, [&]<class Y>(std::type_identity<Y>) {
      if constexpr (std::is_same_v<Wide<X>, Wide<Y>>) body.template operator()<X, Y>();
    });
  });
}

}  // namespace ropewalk

template <>
struct fmt::formatter<ropewalk::DType> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  auto format(ropewalk::DType dtype, format_context& context) const { return format_to(context.out(), "{}", name_of(dtype)); }
};
