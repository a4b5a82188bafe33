// Parity with Hugging Face transformers: tiny random models of each family, in fp64. tests/golden/make_goldens.py says what the files hold.
#include <gtest/gtest.h>

#include <fstream>

#include "parallel/pipeline.h"
#include "tests/support/finite_difference.h"
#include "trainer/batches.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/config/config.h"
#include "trainer/generate.h"

namespace ropewalk {
namespace {

constexpr double kTolerance = 1e-6;

using Golden = std::map<std::string, Tensor>;

std::string golden_file(const std::string& family, const char* ending) { return ROPEWALK_SOURCE "/tests/golden/" + family + ending; }

Golden read_golden(const std::string& family) {
  const std::string path = golden_file(family, ".safetensors");
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  const auto read = [&](int64_t offset, int64_t count) { return bytes.substr(static_cast<size_t>(offset), static_cast<size_t>(count)); };
  Golden golden;
  for (const SafetensorsEntry& entry : parse_safetensors(std::ssize(bytes), read, path).entries) {
    const Tensor tensor = Tensor::empty(entry.shape, entry.dtype);
    std::copy_n(bytes.data() + entry.offset, tensor.bytes(), static_cast<char*>(tensor.raw()));
    golden[entry.name] = tensor;
  }
  return golden;
}

class Reference : public ::testing::TestWithParam<std::string> {
 protected:
  Reference() : golden_(read_golden(GetParam())), model_(options(), Group(), {}) {
    for (const PlacedPart& part : model_.store().parts())
      model_.store().master(part).reshape(part.extent).copy_from(tensor("weights/" + part.spec.name, part.extent));
    for (const PlacedBuffer& placed : model_.store().buffers())
      placed.buffer->value.copy_from(tensor("weights/" + placed.buffer->name, placed.buffer->shape));
  }

  static Options options() {
    Options options = load_config(golden_file(GetParam(), ".yaml"), {}).options;
    options.train.precision = Precision::kFp64;
    return options;
  }
  // A bias of n is [n] to one and [1, n] to the other.
  Tensor tensor(const std::string& name, const Shape& shape) const {
    const auto found = golden_.find(name);
    if (found == golden_.end()) throw std::runtime_error("the reference has no " + name);
    if (found->second.numel() != shape.numel()) throw std::runtime_error(fmt::format("{}: {} there", name, found->second.shape()));
    return found->second.reshape(shape);
  }
  std::vector<int64_t> tokens(int64_t row, int64_t begin, int64_t length) const {
    return golden_.at("tokens").select(0, row).narrow(0, begin, length).to_vector<int64_t>();
  }
  int64_t rows() const { return golden_.at("logits").dim(0); }
  int64_t length() const { return golden_.at("logits").dim(1); }

  // Gradients of the mean cross-entropy of all next tokens; returns that mean.
  double backward() {
    std::vector<Sequence> sequences;
    for (int64_t row = 0; row < rows(); ++row)
      sequences.push_back({.tokens = tokens(row, 0, length()), .targets = tokens(row, 1, length()), .document_begins = {0}});
    for (const PlacedPart& part : model_.store().parts()) model_.store().grad(part).fill(0);
    const double scale = 1.0 / static_cast<double>(rows() * length());
    return scale * Pipeline(model_.model(), model_.mesh(), model_.pipeline_options())
                       .forward_backward({make_microbatch(sequences, model_.mesh(), 1, 0)}, {.target = scale, .sequence = 0})
                       .cross_entropy;
  }

  Golden golden_;
  RankModel model_;
};

TEST_P(Reference, HasTheSameLogits) {
  for (int64_t row = 0; row < rows(); ++row) {
    for (int64_t t = 0; t < length(); ++t) {
      const Tensor logits = Decoder(model_, length()).feed(tokens(row, 0, t + 1));
      EXPECT_LT(testing::relative_error(logits, golden_.at("logits").select(0, row).select(0, t)), kTolerance) << row << ", " << t;
    }
  }
}

TEST_P(Reference, HasTheSameLossAndGradients) {
  EXPECT_NEAR(backward(), golden_.at("loss").item(), kTolerance);
  size_t compared = 0;
  for (const PlacedPart& part : model_.store().parts()) {
    const Tensor given = model_.store().grad(part).reshape(part.extent);
    EXPECT_LT(testing::relative_error(given, tensor("gradients/" + part.spec.name, part.extent)), kTolerance) << part.spec.name;
    ++compared;
  }
  const auto is_gradient = [](const auto& entry) { return entry.first.starts_with("gradients/"); };
  EXPECT_EQ(compared, static_cast<size_t>(std::count_if(golden_.begin(), golden_.end(), is_gradient)));
}

INSTANTIATE_TEST_SUITE_P(Families, Reference,
                         ::testing::Values("llama", "mamba", "mamba2", "jamba", "bamba", "nemotron_h", "granite_4_h", "falcon_h1"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace ropewalk
