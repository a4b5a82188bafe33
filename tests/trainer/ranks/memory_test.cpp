// What four data ranks keep of a model's parameters, gradients and moments, by ZeRO level: the allocator's count against the formulas of
// docs/parallelism.md.
#include <gtest/gtest.h>

#include "kernels/tensor/allocator.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

constexpr double kTolerance = 0.03;
constexpr double kMiB = 1 << 20;

// Nine million parameters, of which no unit has a tenth; gradients take two buckets.
Options hybrid(Precision precision, int zero) {
  ModelOptions model;
  model.d_model = 256;
  model.vocabulary = 2048;
  model.blocks = {{"M", Mamba2Options{.heads = 8, .head_dim = 64, .state = 32, .groups = 1, .conv = 4, .chunk = 16}},
                  {"A", AttentionBlockOptions{.heads = 4, .kv_heads = 2, .head_dim = 64, .rope = RopeOptions{}}},
                  {"F", MlpOptions{.hidden = 1024}}};
  for (int i = 0; i < 3; ++i) model.layers.insert(model.layers.end(), {{"M", "F"}, {"A", "F"}});
  model.layers.insert(model.layers.end(), {{"M"}, {"M"}, {"M"}});
  Options options;
  options.model = model;
  options.optimizer.values.lr = 1e-3;
  options.data.seq_len = 16;
  options.train.precision = precision;
  options.train.batch = 8;
  options.parallel.zero = zero;
  return options;
}

struct Memory {
  double parameters = 0;                        // of the whole model
  double kept = 0;                              // bytes between steps
  double more = 0;                              // at the peak of a step
  double largest_unit = 0, largest_bucket = 0;  // parameters
};

// Each unit's parameters in turn.
double largest_unit(const Declarations& declarations) {
  double largest = 0;
  for (const Unit& unit : declarations.units()) {
    double parameters = 0;
    for (const auto& leaf : unit.leaves)
      for (const auto& fused : declarations.all())
        if (fused->leaf == leaf)
          for (const ParameterSpec& spec : fused->parts) parameters += static_cast<double>(spec.shape.numel());
    largest = std::max(largest, parameters);
  }
  return largest;
}

Memory measure(const Options& options) {
  Memory memory;
  const int64_t before = Allocator::host().stats().in_use;
  {
    const RankModel model(options, testing::world(), {.data = testing::world().size()});
    Optimizer optimizer(options.optimizer, model.declarations(), model.store(), 10);
    TrainStep train_step(model, optimizer, {.clip = 1.0});
    const auto row = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    const auto run = [&](int64_t step) { train_step.run(step, make_batches(row, step, {options.train.batch, 1, 1}, model.mesh())); };
    run(0);
    const int64_t kept = Allocator::host().stats().in_use;
    Allocator::host().reset_peak();
    run(1);
    EXPECT_EQ(Allocator::host().stats().in_use, kept) << "a step leaves memory behind";
    memory.kept = static_cast<double>(kept - before);
    memory.more = static_cast<double>(Allocator::host().stats().peak - kept);
    memory.parameters = static_cast<double>(model.store().numel());
    memory.largest_unit = largest_unit(model.declarations());
    for (const Bucket& bucket : model.store().buckets())
      memory.largest_bucket = std::max(memory.largest_bucket, static_cast<double>(bucket.numel));
  }
  EXPECT_EQ(Allocator::host().stats().in_use, before) << "a model leaves memory behind";
  return memory;
}

// Bytes a parameter: what ops read, the master where that is another, the gradient, two moments; each whole or in pieces.
double kept_a_parameter(Precision precision, int zero) {
  const double ranks = testing::world().size();
  const auto cut_from = [&](int level) { return zero >= level ? 1 / ranks : 1; };
  const double read = precision == Precision::kBf16 ? 2 : 4, master = precision == Precision::kBf16 ? 4 : 0;
  return read * cut_from(3) + master * cut_from(1) + 4 * cut_from(2) + 8 * cut_from(1);
}

// Bytes at most that a step needs besides, for a while: at ZeRO-2 a bucket's gradients that are added to, those of one that has left, and
// what arrives of that; at ZeRO-3 the same of units, and what ops read of two of them.
double whole_for_a_while(Precision precision, int zero, const Memory& memory) {
  const double read = precision == Precision::kBf16 ? 2 : 4;
  if (zero < 2) return 0;
  return zero == 2 ? 3 * 4 * memory.largest_bucket : (3 * 4 + 2 * read) * memory.largest_unit;
}

class ZeroMemory : public ::testing::TestWithParam<Precision> {};

TEST_P(ZeroMemory, IsThatOfTheFormulas) {
  double activations = 0;  // and all else that is the same at every level
  for (int zero = 0; zero <= 3; ++zero) {
    const Memory memory = measure(hybrid(GetParam(), zero));
    const double expected = kept_a_parameter(GetParam(), zero) * memory.parameters;
    EXPECT_NEAR(memory.kept, expected, kTolerance * expected) << "zero " << zero;
    if (zero == 0) activations = memory.more;
    const double whole = whole_for_a_while(GetParam(), zero, memory);
    EXPECT_LE(memory.more - activations, whole + kTolerance * activations) << "zero " << zero;
    if (testing::world().rank() == 0)
      fmt::print("zero {}: {:.2f} MiB kept, by formula {:.2f} ({:+.2f}%); {:.2f} MiB more at the peak, {:.2f} at most\n", zero,
                 memory.kept / kMiB, expected / kMiB, 100 * (memory.kept / expected - 1), memory.more / kMiB, (activations + whole) / kMiB);
  }
}

INSTANTIATE_TEST_SUITE_P(OfFourDataRanks, ZeroMemory, ::testing::Values(Precision::kBf16, Precision::kFp32),
                         [](const auto& info) { return info.param == Precision::kBf16 ? "Bf16" : "Fp32"; });

}  // namespace
}  // namespace ropewalk
