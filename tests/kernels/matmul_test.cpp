#include "kernels/matmul/matmul.h"

#include <gmock/gmock.h>

#include "tests/reference/matmul.h"
#include "tests/support/devices.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_slice;
using testing::random_tensor;

struct Flags {
  bool transpose_a, transpose_b, accumulate;
};

std::vector<Flags> all_flags() {
  std::vector<Flags> flags;
  for (const bool a : {false, true})
    for (const bool b : {false, true})
      for (const bool c : {false, true}) flags.push_back({a, b, c});
  return flags;
}

// Operands in slices, against the definition on the same rounded values.
void expect_definition(int64_t m, int64_t n, int64_t k, Flags flags, DType in, DType out, double tolerance) {
  const Tensor a = random_slice(flags.transpose_a ? Shape{k, m} : Shape{m, k}, 1, 1.0, in);
  const Tensor b = random_slice(flags.transpose_b ? Shape{n, k} : Shape{k, n}, 2, 1.0, in);

  std::vector<double> a_mk = a.to_vector<double>(), b_kn = b.to_vector<double>(), expected(m * n);
  if (flags.transpose_a) a_mk = reference::transposed(a_mk, k, m);
  if (flags.transpose_b) b_kn = reference::transposed(b_kn, n, k);
  if (flags.accumulate) expected = random_slice({m, n}, 3, 1.0, out).to_vector<double>();
  reference::add_product(a_mk, b_kn, expected, m, n, k);

  for (const Device device : testing::devices(in)) {
    const Tensor c = testing::on(device, random_slice({m, n}, 3, 1.0, out));
    launch(device, MatMul{.c = c,
                          .a = testing::on(device, a),
                          .transpose_a = flags.transpose_a,
                          .b = testing::on(device, b),
                          .transpose_b = flags.transpose_b,
                          .accumulate = flags.accumulate});
    EXPECT_TENSOR_NEAR(c, Tensor::from({m, n}, expected), tolerance)
        << fmt::format("m {} n {} k {} transpose {} {} accumulate {} {} -> {} {}", m, n, k, flags.transpose_a, flags.transpose_b,
                       flags.accumulate, in, out, device.is_cuda() ? "on the GPU" : "on the host");
  }
}

TEST(MatMul, MatchesTheDefinition) {
  for (const Flags& flags : all_flags())
    for (const auto& [m, n, k] : {std::array{1, 1, 1}, {3, 5, 7}, {1, 70, 130}, {64, 64, 128}, {65, 67, 129}, {130, 19, 300}}) {
      expect_definition(m, n, k, flags, DType::kFloat64, DType::kFloat64, 1e-14);
      expect_definition(m, n, k, flags, DType::kFloat32, DType::kFloat32, 1e-6);
      expect_definition(m, n, k, flags, DType::kBFloat16, DType::kFloat32, 1e-6);
      expect_definition(m, n, k, flags, DType::kBFloat16, DType::kBFloat16, 4e-3);
    }
}

TEST(MatMul, JoinsBlocks) {  // larger than a block of 256 by 512, and no multiple of it
  for (const Flags& flags : {Flags{false, true, false}, {true, false, true}}) {
    expect_definition(300, 550, 20, flags, DType::kFloat32, DType::kFloat32, 1e-6);
    expect_definition(513, 30, 20, flags, DType::kBFloat16, DType::kFloat32, 1e-6);
  }
}

// Sizes that our own kernels take: sums of several pieces, several blocks of columns, so many blocks of rows that they share b.
TEST(MatMul, JoinsBlocksAndPiecesOfItsOwnKernels) {
  for (const Flags& flags : all_flags())
    for (const auto& [m, n, k] : {std::array{300, 70, 600}, {260, 1100, 33}, {1300, 40, 40}, {1300, 33, 530}}) {
      expect_definition(m, n, k, flags, DType::kFloat32, DType::kFloat32, 1e-6);
      expect_definition(m, n, k, flags, DType::kBFloat16, DType::kFloat32, 1e-6);
      expect_definition(m, n, k, flags, DType::kBFloat16, DType::kBFloat16, 4e-3);
    }
}

TEST(MatMul, FoldsAllDimsButTheLast) {
  const Tensor a = random_slice({2, 3, 4, 5}, 1), b = random_tensor({5, 6}, 2), c = Tensor::zeros({2, 12, 6}, DType::kFloat64);
  std::vector<double> expected(24 * 6);
  reference::add_product(a.to_vector<double>(), b.to_vector<double>(), expected, 24, 6, 5);
  launch(Cpu{}, MatMul{.c = c, .a = a, .b = b});
  EXPECT_TENSOR_NEAR(c, Tensor::from({2, 12, 6}, expected), 1e-14);
}

TEST(MatMul, SumsOfNothingAreZero) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : testing::devices(dtype)) {
      const Tensor c = Tensor::full({2, 3}, 7, dtype, device), a = Tensor::zeros({2, 0}, dtype, device),
                   b = Tensor::zeros({0, 3}, dtype, device);
      launch(device, MatMul{.c = c, .a = a, .b = b, .accumulate = true});
      EXPECT_THAT(c.to_vector<double>(), ::testing::Each(7));
      launch(device, MatMul{.c = c, .a = a, .b = b});
      EXPECT_THAT(c.to_vector<double>(), ::testing::Each(0));
      const Tensor nothing = Tensor::zeros({0, 3}, dtype, device);
      launch(device, MatMul{.c = nothing, .a = Tensor::zeros({0, 2}, dtype, device), .b = c});
    }
}

TEST(MatMul, GivesTheSameBitsOnOneAndTwoThreads) {
  // Among them oneDNN's weak spots: few outputs of long sums, which it would split over threads.
  for (const auto& [m, n, k] : {std::array{300, 512, 2048}, {5, 33, 2048}, {300, 1, 5000}, {64, 1000, 2048}})
    for (const DType in : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
      if (in == DType::kFloat64 && k * m > 100000) continue;
      const Tensor a = random_tensor({k, m}, 1, 1.0, in), b = random_tensor({k, n}, 2, 1.0, in);
      testing::expect_same_bits_on_one_and_two_threads([&, m = m, n = n] {
        // Rows of another stride for each number of threads: oneDNN must plan anew.
        const Tensor c = Tensor::empty({m, n + omp_get_max_threads()}, wide(in)).narrow(1, 0, n);
        launch(Cpu{}, MatMul{.c = c, .a = a, .transpose_a = true, .b = b});
        return Tensors{c};
      });
    }
}

// Among them few outputs of long sums, which a GPU cuts into parts.
TEST(MatMul, GivesTheSameBitsEachTime) {
  for (const auto& [m, n, k] : {std::array{64, 64, 4096}, {5, 33, 2048}, {300, 130, 500}})
    for (const DType in : {DType::kFloat32, DType::kBFloat16})
      for (const Device device : testing::devices()) {
        const Tensor a = random_tensor({m, k}, 1, 1.0, in).to(device), b = random_tensor({k, n}, 2, 1.0, in).to(device);
        const auto product = [&, m = m, n = n] {
          const Tensor c = Tensor::full({m, n}, 0.5, DType::kFloat32, device);
          launch(device, MatMul{.c = c, .a = a, .b = b, .accumulate = true});
          return c.to_vector<float>();
        };
        const std::vector<float> first = product();
        for (int time = 0; time < 3; ++time) EXPECT_EQ(product(), first);
      }
}

TEST(MatMul, RefusesFp64OnAGpu) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU here";
  const Tensor x = Tensor::zeros({2, 2}, DType::kFloat64, Cuda{});
  EXPECT_THAT([&] { launch(Device(Cuda{}), MatMul{.c = x, .a = x, .b = x}); },
              ::testing::ThrowsMessage<ShapeError>("matmul: expected fp32 or bf16 on a GPU, given fp64"));
}

TEST(MatMul, GivesTheSameBitsHoweverThreadsCutItsBlocks) {
  for (const DType in : {DType::kFloat32, DType::kBFloat16}) {
    const Tensor x = random_tensor({1100, 500}, 1, 1.0, in), weight = random_tensor({600, 500}, 2, 1.0, in),
                 dy = random_tensor({1100, 600}, 3, 1.0, in);
    testing::expect_same_bits_on_one_and_two_threads([&] {
      const Tensor y = Tensor::empty({1100, 600}, in), dx = Tensor::empty({1100, 500}, in),
                   dweight = Tensor::full({600, 500}, 0.25, wide(in));
      launch(Cpu{}, MatMul{.c = y, .a = x, .b = weight, .transpose_b = true});
      launch(Cpu{}, MatMul{.c = dx, .a = dy, .b = weight});
      launch(Cpu{}, MatMul{.c = dweight, .a = dy, .transpose_a = true, .b = x, .accumulate = true});
      return Tensors{y, dx, dweight};
    });
  }
}

TEST(MatMul, NamesWhatDoesNotFit) {
  const auto multiply = [](const Shape& c, const Shape& a, const Shape& b) {
    const DType dtype = DType::kFloat32;
    launch(Cpu{}, MatMul{.c = Tensor::zeros(c, dtype), .a = Tensor::zeros(a, dtype), .b = Tensor::zeros(b, dtype)});
  };
  EXPECT_THAT(
      [&] {
        multiply({2, 4}, {2, 3}, {5, 4});
      },
      ::testing::ThrowsMessage<ShapeError>("matmul: b: expected 3 terms a sum (a [2, 3]), given [5, 4]"));
  EXPECT_THAT([&] { multiply({2, 5}, {2, 3}, {3, 4}); }, ::testing::ThrowsMessage<ShapeError>("matmul: c: expected [2, 4], given [2, 5]"));
}

}  // namespace
}  // namespace ropewalk
