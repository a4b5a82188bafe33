#include "kernels/matmul/panels.h"

#include <gmock/gmock.h>

#include "tests/reference/matmul.h"
#include "tests/support/slices.h"

namespace ropewalk {
namespace {

using testing::random_slice;

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
};

// P's product of operands stored as X, and then the same added to it, against the definition.
template <class P, class X, class W>
void expect_definition(const Case& c, double tolerance) {
  const Tensor a = random_slice(c.transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k}, 1, 1.0, dtype_of<X>());
  const Tensor b = random_slice(c.transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n}, 2, 1.0, dtype_of<X>());
  std::vector<double> a_mk = a.to_vector<double>(), b_kn = b.to_vector<double>(), expected(static_cast<size_t>(c.m * c.n));
  if (c.transpose_a) a_mk = reference::transposed(a_mk, c.k, c.m);
  if (c.transpose_b) b_kn = reference::transposed(b_kn, c.n, c.k);

  std::vector<typename P::Element> left(static_cast<size_t>(P::left_size(c.m, c.k))), right(static_cast<size_t>(P::right_size(c.k, c.n)));
  (c.transpose_a ? P::template left_transposed<X> : P::template left<X>)(c.m, c.k, a.data<X>(), a.stride(0), left.data());
  (c.transpose_b ? P::template right_transposed<X> : P::template right<X>)(c.k, c.n, b.data<X>(), b.stride(0), right.data());
  const Tensor product = Tensor::full({c.m, c.n + 3}, 7, dtype_of<W>()).narrow(1, 0, c.n);
  [[maybe_unused]] const typename P::Session session;
  const std::string label = fmt::format("m {} n {} k {} transposed {} {}", c.m, c.n, c.k, c.transpose_a, c.transpose_b);

  reference::add_product(a_mk, b_kn, expected, c.m, c.n, c.k);
  P::multiply(c.m, c.n, c.k, left.data(), right.data(), product.data<W>(), product.stride(0));
  EXPECT_TENSOR_NEAR(product, Tensor::from({c.m, c.n}, expected), tolerance) << label;
  reference::add_product(a_mk, b_kn, expected, c.m, c.n, c.k);
  P::add(c.m, c.n, c.k, left.data(), right.data(), product.data<W>(), product.stride(0));
  EXPECT_TENSOR_NEAR(product, Tensor::from({c.m, c.n}, expected), tolerance) << label << ", added";
}

template <class T, class X>
void expect_definitions(bool small, double tolerance) {
  for (const auto& [m, n, k] : {std::array{1, 1, 1}, {3, 5, 7}, {64, 64, 64}, {33, 17, 130}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        with_panels<T>(small, [&]<class P>(P) { expect_definition<P, X, Wide<T>>({m, n, k, transpose_a, transpose_b}, tolerance); });
}

TEST(Panels, HoldTheProductsOfTheirOperands) {
  for (const bool small : {false, true}) {
    expect_definitions<double, double>(small, 1e-14);
    expect_definitions<float, float>(small, 3e-7);
    expect_definitions<bfloat16, bfloat16>(small, 3e-7);
  }
}

TEST(Panels, RoundWideOperandsWhereTheirOpStoresBf16OnTiles) {
  expect_definitions<bfloat16, float>(false, 4e-3);
  expect_definitions<bfloat16, float>(true, 3e-7);
}

}  // namespace
}  // namespace ropewalk
