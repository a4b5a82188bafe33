// Extents of a tensor, outermost first. Holds up to kMaxRank of them without allocating.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace ropewalk {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : Shape(extents.begin(), static_cast<int>(extents.size())) {}
  Shape(const int64_t* extents, int rank);

  int rank() const { return rank_; }
  int64_t numel() const;
  int64_t operator[](int dim) const { return extents_[index(dim)]; }  // negative dims count from the back
  int64_t& operator[](int dim) { return extents_[index(dim)]; }
  int index(int dim) const { return dim < 0 ? dim + rank_ : dim; }
  const int64_t* begin() const { return extents_.data(); }
  const int64_t* end() const { return extents_.data() + rank_; }

  Shape with(int dim, int64_t extent) const;  // this shape with one extent changed
  Shape first(int rank) const { return Shape(extents_.data(), rank); }
  Shape then(std::initializer_list<int64_t> more) const;  // this shape with extents appended

  bool operator==(const Shape& other) const;
  std::string to_string() const;  // "[4, 512, 2048]"

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace ropewalk

template <>
struct fmt::formatter<ropewalk::Shape> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  auto format(const ropewalk::Shape& shape, format_context& context) const { return format_to(context.out(), "{}", shape.to_string()); }
};
