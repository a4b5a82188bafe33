#include "kernels/amx/amx.h"

#include <gmock/gmock.h>

#include "kernels/tensor/isa.h"
#include "tests/reference/matmul.h"
#include "tests/support/slices.h"

namespace ropewalk {
namespace {

using testing::random_slice;

class Amx : public ::testing::Test {
 protected:
  void SetUp() override {
    if (isa() != Isa::kAmx) GTEST_SKIP() << "no AMX here, or ROPEWALK_ISA masks it";
  }
};

// A matrix as the packing routines find it: stored as it is or transposed.
template <class T>
Tensor stored(int64_t rows, int64_t columns, bool transposed, uint64_t seed) {
  return random_slice(transposed ? Shape{columns, rows} : Shape{rows, columns}, seed, 1.0, dtype_of<T>());
}

// What counts of its elements, row-major: one plane holds them rounded, three hold all of them.
template <int kPlanes>
std::vector<double> rounded(const Tensor& x, bool transposed) {
  const std::vector<double> values = x.to(kPlanes == 1 ? DType::kBFloat16 : x.dtype()).to_vector<double>();
  return transposed ? reference::transposed(values, x.dim(0), x.dim(1)) : values;
}

std::vector<bfloat16> filled(int64_t size) { return std::vector<bfloat16>(static_cast<size_t>(size), bfloat16(NAN)); }

template <int kPlanes, class T>
std::vector<bfloat16> packed_a(int64_t m, int64_t k, const Tensor& x, bool transposed) {
  std::vector<bfloat16> panels = filled(amx::packed_size(m, k, kPlanes));
  (transposed ? amx::pack_a_transposed<kPlanes, T> : amx::pack_a<kPlanes, T>)(m, k, x.data<T>(), x.stride(0), panels.data());
  return panels;
}

template <int kPlanes, class T>
std::vector<bfloat16> packed_b(int64_t k, int64_t n, const Tensor& x, bool transposed) {
  std::vector<bfloat16> panels = filled(amx::packed_size(n, k, kPlanes));
  (transposed ? amx::pack_b_transposed<kPlanes, T> : amx::pack_b<kPlanes, T>)(k, n, x.data<T>(), x.stride(0), panels.data());
  return panels;
}

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b, add;
};

template <int kPlanes, class T, class C>
void expect_definition(const Case& p, double tolerance) {
  const Tensor a = stored<T>(p.m, p.k, p.transpose_a, 1), b = stored<T>(p.k, p.n, p.transpose_b, 2);
  const Tensor sum = random_slice({p.m, p.n}, 3, 1.0, DType::kFloat32);
  // Rows of c stand in wider ones, which must stay as they are.
  const Tensor around = Tensor::full({p.m, p.n + 5}, 7, dtype_of<C>()), c = around.narrow(1, 2, p.n);
  std::vector<double> expected = p.add ? sum.to_vector<double>() : std::vector<double>(static_cast<size_t>(p.m * p.n));
  reference::add_product(rounded<kPlanes>(a, p.transpose_a), rounded<kPlanes>(b, p.transpose_b), expected, p.m, p.n, p.k);

  const std::vector<bfloat16> a_panels = packed_a<kPlanes, T>(p.m, p.k, a, p.transpose_a),
                              b_panels = packed_b<kPlanes, T>(p.k, p.n, b, p.transpose_b);
  const amx::Tiles tiles;
  amx::multiply<kPlanes>(amx::Product{.m = p.m,
                                      .n = p.n,
                                      .k = p.k,
                                      .a = a_panels.data(),
                                      .b = b_panels.data(),
                                      .sum = p.add ? sum.data<float>() : nullptr,
                                      .sum_stride = sum.stride(0)},
                         c.data<C>(), c.stride(0));
  EXPECT_TENSOR_NEAR(c, Tensor::from({p.m, p.n}, expected), tolerance)
      << fmt::format("m {} n {} k {} transposed {} {} add {}", p.m, p.n, p.k, p.transpose_a, p.transpose_b, p.add);
  for (const Tensor& margin : {around.narrow(1, 0, 2), around.narrow(1, p.n + 2, 3)})
    EXPECT_THAT(margin.to_vector<double>(), ::testing::Each(7));
}

TEST_F(Amx, MatchesTheDefinition) {
  for (const auto& [m, n, k] : {std::array{1, 1, 1}, {3, 5, 7}, {32, 32, 32}, {64, 96, 64}, {33, 17, 31}, {16, 70, 130}, {65, 31, 33}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const bool add : {false, true}) {
          const Case p{m, n, k, transpose_a, transpose_b, add};
          expect_definition<1, bfloat16, float>(p, 1e-6);
          expect_definition<1, bfloat16, bfloat16>(p, 4e-3);
          expect_definition<1, float, float>(p, 1e-6);
          expect_definition<1, float, bfloat16>(p, 4e-3);
          expect_definition<3, float, float>(p, 2e-7);
        }
}

TEST_F(Amx, AddsToItsOwnSum) {
  for (const int64_t n : {32, 45}) {
    const Tensor a = stored<float>(40, 50, false, 1), b = stored<float>(50, n, false, 2),
                 c = random_slice({40, n}, 3, 1.0, DType::kFloat32);
    std::vector<double> expected = c.to_vector<double>();
    reference::add_product(rounded<1>(a, false), rounded<1>(b, false), expected, 40, n, 50);
    const std::vector<bfloat16> a_panels = packed_a<1, float>(40, 50, a, false), b_panels = packed_b<1, float>(50, n, b, false);
    const amx::Tiles tiles;
    amx::multiply<1>(
        {.m = 40, .n = n, .k = 50, .a = a_panels.data(), .b = b_panels.data(), .sum = c.data<float>(), .sum_stride = c.stride(0)},
        c.data<float>(), c.stride(0));
    EXPECT_TENSOR_NEAR(c, Tensor::from({40, n}, expected), 1e-6);
  }
}

TEST_F(Amx, GivesAnElementTheSameBitsInAnyBlock) {
  const int64_t m = 70, n = 50, k = 100;
  const Tensor a = stored<bfloat16>(m, k, false, 1), b = stored<bfloat16>(k, n, false, 2);
  const auto product = [&](int64_t i, int64_t j, int64_t rows, int64_t columns) {
    const std::vector<bfloat16> a_panels = packed_a<1, bfloat16>(rows, k, a.narrow(0, i, rows), false);
    const std::vector<bfloat16> b_panels = packed_b<1, bfloat16>(k, columns, b.narrow(1, j, columns), false);
    const Tensor c = Tensor::empty({rows, columns}, DType::kFloat32);
    const amx::Tiles tiles;
    amx::multiply<1>({.m = rows, .n = columns, .k = k, .a = a_panels.data(), .b = b_panels.data()}, c.data<float>(), columns);
    return c;
  };
  const Tensor whole = product(0, 0, m, n);
  EXPECT_EQ(product(37, 11, 21, 35).to_vector<float>(), whole.narrow(0, 37, 21).narrow(1, 11, 35).to_vector<float>());
}

TEST_F(Amx, SumsOfNothingAreTheSum) {
  const Tensor c = Tensor::full({3, 4}, 7, DType::kFloat32), sum = Tensor::full({3, 4}, 5, DType::kFloat32);
  const amx::Tiles tiles;
  amx::multiply<1>({.m = 3, .n = 4, .k = 0, .a = nullptr, .b = nullptr, .sum = sum.data<float>(), .sum_stride = 4}, c.data<float>(), 4);
  EXPECT_THAT(c.to_vector<double>(), ::testing::Each(5));
  amx::multiply<1>({.m = 3, .n = 4, .k = 0, .a = nullptr, .b = nullptr}, c.data<float>(), 4);
  EXPECT_THAT(c.to_vector<double>(), ::testing::Each(0));
}

}  // namespace
}  // namespace ropewalk
