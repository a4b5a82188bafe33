#include "kernels/embedding/embedding.h"

#include <gmock/gmock.h>

#include "tests/reference/embedding.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::parameter;
using testing::random_slice;
using testing::random_tensor;

constexpr int64_t kFirstRow = 10;

// Ids from two below the first row to two above the last; many repeat.
Tensor random_ids(const Shape& shape, int64_t rows) {
  const Tensor uniform = random_tensor(shape, 77, 0.5);
  std::vector<int64_t> ids;
  for (const double u : uniform.to_vector<double>())
    ids.push_back(kFirstRow - 2 + static_cast<int64_t>((u + 0.5) * static_cast<double>(rows + 4)));
  return Tensor::from(shape, ids);
}

// y and dweight, for dy given.
Tensors run(const Tensor& ids, const Tensor& weight, const Tensor& dy, Device device = {}) {
  Tape tape;
  const Var w = parameter("weight", weight.to(device));
  const Var y = embedding(tape.constant(ids), w, kFirstRow, dy.dtype());
  tape.backward({y}, {testing::on(device, dy)});
  return {y.data(), w.leaf()->grad};
}

TEST(Embedding, MatchesTheDefinition) {
  for (const auto& [tokens, rows, width] : {std::array{1, 1, 1}, {20, 7, 5}, {9, 30, 130}}) {
    const Tensor ids = random_ids({1, tokens}, rows), weight = random_tensor({rows, width}, 1), dy = random_slice({1, tokens, width}, 2);
    const Tensors given = run(ids, weight, dy);
    const auto id = ids.to_vector<int64_t>();
    EXPECT_EQ(given[0].shape(), dy.shape());
    EXPECT_EQ(given[0].to_vector<double>(), reference::embedding(id, weight.to_vector<double>(), width, kFirstRow));
    const auto dweight = reference::embedding_backward(id, dy.to_vector<double>(), rows, width, kFirstRow);
    EXPECT_TENSOR_NEAR(given[1], Tensor::from({rows, width}, dweight), 1e-14);
  }
}

TEST(Embedding, BackwardMatchesFiniteDifferences) {
  for (const int64_t width : {1, 5, 67})
    testing::expect_gradients(
        {{"ids", random_ids({2, 6}, 4), Argument::kConstant}, {"weight", random_tensor({4, width}, 1), Argument::kParameter}},
        [](const Vars& in) { return Vars{embedding(in[0], in[1], kFirstRow, DType::kFloat64)}; });
}

TEST(Embedding, Fp32AndBf16MatchFp64) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const DType out : {DType::kFloat32, DType::kBFloat16}) {
      const Tensor ids = random_ids({3, 70}, 20), weight = random_tensor({20, 67}, 1, 1.0, dtype),
                   dy = random_tensor({3, 70, 67}, 2, 1.0, out);
      const Tensors expected = run(ids, weight.to(DType::kFloat64), dy.to(DType::kFloat64));
      for (const Device device : testing::devices()) {
        SCOPED_TRACE(device.is_cuda() ? "on the GPU" : "on the host");
        const Tensors given = run(ids, weight, dy, device);
        EXPECT_EQ(given[0].dtype(), out);
        EXPECT_EQ(given[1].dtype(), DType::kFloat32);
        EXPECT_TENSOR_NEAR(given[0], expected[0], out == DType::kFloat32 ? 1e-12 : 4e-3);
        EXPECT_TENSOR_NEAR(given[1], expected[1], 1e-6);
      }
    }
}

// Rows of one token, of many, and one that every second token has; ids of other ranks among them.
TEST(Embedding, AddsUpRowsThatFewAndManyTokensHave) {
  constexpr int64_t kRows = 700, kTokens = 2500;
  std::vector<int64_t> ids = random_ids({kTokens}, kRows).to_vector<int64_t>();
  for (size_t i = 0; i < ids.size(); i += 2) ids[i] = kFirstRow + 300;
  for (size_t i = 1; i < ids.size(); i += 10) ids[i] = kFirstRow + 299 + static_cast<int64_t>(i % 3) * 2;
  for (const int64_t width : {8, 5})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Tensor id = Tensor::from({kTokens}, ids), weight = random_tensor({kRows, width}, 1, 1.0, dtype),
                   dy = random_tensor({kTokens, width}, 2, 1.0, dtype);
      const auto expected = reference::embedding_backward(ids, dy.to_vector<double>(), kRows, width, kFirstRow);
      for (const Device device : testing::devices()) {
        SCOPED_TRACE(device.is_cuda() ? "on the GPU" : "on the host");
        EXPECT_TENSOR_NEAR(run(id, weight, dy, device)[1], Tensor::from({kRows, width}, expected), 1e-6);
      }
    }
}

TEST(Embedding, AddsToTheGradientThatIsThere) {
  Tape tape;
  const Var weight = parameter("weight", random_tensor({2, 3}, 1));
  weight.leaf()->grad.fill(5);
  const Var y = embedding(tape.constant(Tensor::from<int64_t>({2}, {1, 1})), weight, 0, DType::kFloat64);
  tape.backward({y}, {Tensor::full({2, 3}, 1, DType::kFloat64)});
  EXPECT_THAT(weight.leaf()->grad.to_vector<double>(), ::testing::ElementsAre(5, 5, 5, 7, 7, 7));
}

TEST(Embedding, TakesAGradientThatIsNotRows) {
  const Tensor ids = random_ids({2, 3}, 4), weight = random_tensor({4, 5}, 1), dy = random_tensor({2, 6, 5}, 2).narrow(1, 1, 3);
  EXPECT_EQ(run(ids, weight, dy)[1].to_vector<double>(), run(ids, weight, dy.contiguous_copy())[1].to_vector<double>());
}

TEST(Embedding, GivesTheSameBitsOnOneAndTwoThreads) {
  const Tensor ids = random_ids({500}, 30), weight = random_tensor({30, 300}, 1, 1.0, DType::kBFloat16);
  const Tensor dy = random_tensor({500, 300}, 2, 1.0, DType::kFloat32);
  testing::expect_same_bits_on_one_and_two_threads([&] { return run(ids, weight, dy); });
}

TEST(Embedding, TakesEmptyTensors) {
  const Tensor weight = random_tensor({4, 3}, 1), none = Tensor::zeros({0}, DType::kInt64);
  EXPECT_EQ(run(none, weight, Tensor::zeros({0, 3}, DType::kFloat64))[0].shape(), (Shape{0, 3}));
  const Tensor one = Tensor::from<int64_t>({1}, {kFirstRow});  // a rank that holds no rows
  EXPECT_EQ(run(one, Tensor::zeros({0, 3}, DType::kFloat64), random_tensor({1, 3}, 1))[0].to_vector<double>(),
            (std::vector<double>{0, 0, 0}));
}

TEST(Embedding, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        embedding(random_tensor({2}, 1), random_tensor({4, 3}, 1), 0, DType::kFloat32);
      },
      ::testing::ThrowsMessage<ShapeError>("embedding: ids: expected int64, given fp64"));
  EXPECT_THAT([] { embedding(Tensor::zeros({2}, DType::kInt64), random_tensor({4}, 1), 0, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("embedding: weight: expected [rows, D], given [4]"));
}

}  // namespace
}  // namespace ropewalk
