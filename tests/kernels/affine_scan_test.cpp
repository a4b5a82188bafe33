#include "kernels/affine_scan/affine_scan.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/reference/affine_scan.h"
#include "tests/support/affine_scan_op.h"
#include "tests/support/precision.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_tensor;

// Runs of three chunks, of one, of none and of two; and longer ones.
const std::vector<int64_t> kFirstChunk = {0, 3, 4, 4, 6}, kLongRuns = {0, 9, 13, 13, 14, 24};

struct Inputs {
  std::vector<int64_t> first_chunk;
  Tensor decay, local, start;
  Inputs(int64_t heads, int64_t p, int64_t n, const std::vector<int64_t>& chunks = kFirstChunk)
      : first_chunk(chunks),
        decay(random_tensor({chunks.back(), heads}, 1)),
        local(random_tensor({chunks.back(), heads, p, n}, 2)),
        start(random_tensor({std::ssize(chunks) - 1, heads, p, n}, 3)) {}
};

struct Results {
  Tensor entering, leaving, total_decay;
};

Results scan(const Inputs& in, DType dtype, const Tensor& start, Device device = {}) {
  const Tensor decay = in.decay.to(dtype).to(device), local = in.local.to(dtype).to(device);
  const Results out{empty_like(local), Tensor::empty(in.start.shape(), dtype, device),
                    Tensor::empty(in.start.shape().first(2), dtype, device)};
  launch(device, AffineScanForward{.entering = out.entering,
                                   .leaving = out.leaving,
                                   .total_decay = out.total_decay,
                                   .start = start ? start.to(dtype).to(device) : start,
                                   .decay = decay,
                                   .local = local,
                                   .first_chunk = in.first_chunk});
  return out;
}

void expect_definition(const Results& given, const Inputs& in, const Tensor& start, double tolerance) {
  const int64_t heads = in.decay.dim(1), size = in.local.dim(2) * in.local.dim(3);
  const auto expected = reference::affine_scan(in.decay.to_vector<double>(), in.local.to_vector<double>(), start.to_vector<double>(),
                                               in.first_chunk, heads, size);
  EXPECT_TENSOR_NEAR(given.entering, Tensor::from(in.local.shape(), expected.entering), tolerance);
  EXPECT_TENSOR_NEAR(given.leaving, Tensor::from(in.start.shape(), expected.leaving), tolerance);
  EXPECT_TENSOR_NEAR(given.total_decay, Tensor::from(in.start.shape().first(2), expected.total_decay), tolerance);
}

TEST(AffineScan, FoldsEachRunFromItsStart) {
  for (const auto& chunks : {kFirstChunk, kLongRuns})
    for (const auto& [heads, p, n] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {2, 8, 16}, {1, 33, 64}}) {
      const Inputs in(heads, p, n, chunks);
      expect_definition(scan(in, DType::kFloat64, in.start), in, in.start, 1e-10);
      expect_definition(scan(in, DType::kFloat64, {}), in, zeros_like(in.start), 1e-10);
      for (const Device device : testing::devices()) {
        expect_definition(scan(in, DType::kFloat32, in.start, device), in, in.start, 1e-5);
        expect_definition(scan(in, DType::kFloat32, {}, device), in, zeros_like(in.start), 1e-5);
      }
    }
}

TEST(AffineScan, BackwardMatchesFiniteDifferences) {
  for (const auto& [heads, p, n] : {std::array<int64_t, 3>{1, 1, 1}, {2, 3, 5}, {2, 5, 8}}) {
    const Inputs in(heads, p, n);
    testing::expect_gradients({{"decay", in.decay}, {"local", in.local}, {"start", in.start}},
                              [](const Vars& v) { return testing::affine_scan(v[0], v[1], v[2], kFirstChunk); });
    // One of the outputs unused: its gradient arrives empty.
    for (const int output : {0, 1})
      testing::expect_gradients({{"decay", in.decay}, {"local", in.local}, {"start", in.start}},
                                [=](const Vars& v) { return Vars{testing::affine_scan(v[0], v[1], v[2], kFirstChunk)[output]}; });
  }
}

TEST(AffineScan, GradientsInSinglePrecisionMatchDouble) {
  for (const auto& chunks : {kFirstChunk, kLongRuns})
    for (const auto& [heads, p, n] : {std::array<int64_t, 3>{2, 8, 16}, {3, 5, 7}, {1, 33, 64}}) {
      const Inputs in(heads, p, n, chunks);
      const std::vector<Argument> arguments = {
          {"decay", in.decay.to(DType::kFloat32)}, {"local", in.local.to(DType::kFloat32)}, {"start", in.start.to(DType::kFloat32)}};
      const auto scan = [&](const Vars& v) { return testing::affine_scan(v[0], v[1], v[2], in.first_chunk); };
      testing::expect_precision(arguments, scan, 1e-5, 1e-5);
      for (const size_t output : {0u, 1u})
        testing::expect_precision(
            arguments, [&](const Vars& v) { return Vars{scan(v)[output]}; }, 1e-5, 1e-5);
    }
}

TEST(AffineScan, TakesEmptyStates) {
  for (const Device device : testing::devices())
    for (const auto& [heads, p, n] : {std::array<int64_t, 3>{0, 2, 4}, {2, 0, 4}}) {
      const Inputs in(heads, p, n);
      const Results given = scan(in, DType::kFloat32, in.start, device);
      EXPECT_EQ(given.entering.numel(), 0);
      expect_definition(given, in, in.start, 1e-5);
    }
}

TEST(AffineScan, GivesTheSameBitsForAnyNumberOfThreads) {
  const Inputs in(8, 32, 33);
  const auto run = [&](int threads) {
    omp_set_num_threads(threads);
    Tape tape;
    const Vars out = testing::affine_scan(tape.input(in.decay), tape.input(in.local), tape.input(in.start), kFirstChunk);
    Tensors all = tape.backward(out, {random_tensor(in.local.shape(), 4), random_tensor(in.start.shape(), 5)});
    for (const Var& y : out) all.push_back(y.data());
    return all;
  };
  const Tensors one = run(1), two = run(2);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].to_vector<double>(), two[i].to_vector<double>());
}

TEST(AffineScan, NamesTheOperandThatDoesNotFit) {
  const Inputs in(2, 3, 5);
  EXPECT_THROW(scan(in, DType::kFloat64, random_tensor({3, 2, 3, 5}, 3)), ShapeError);
}

}  // namespace
}  // namespace ropewalk
