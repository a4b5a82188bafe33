// What the host and the GPU make of the same run.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/tensor/memory.h"
#include "tests/support/parity.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/state.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {
namespace fs = std::filesystem;

constexpr double kFp32 = 2e-5, kBf16 = 2e-2;
constexpr double kRounding = 1e-3;  // of the norm of all gradients: below it there is nothing but rounding to compare

Options options_on(DeviceChoice device, const testing::TinyModel& tiny, Precision precision = Precision::kFp32) {
  Options options = testing::tiny_options(tiny);
  options.train.precision = precision;
  options.run.device = device;
  return options;
}

class OnTheGpu : public ::testing::TestWithParam<testing::TinyModel> {
 protected:
  void SetUp() override {
    if (!available(Cuda{})) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(OnTheGpu, TrainingInFp32IsTheHosts) {
  const testing::Outcome host = testing::train_for_parity(options_on(DeviceChoice::kCpu, GetParam()), Group(), {}),
                         gpu = testing::train_for_parity(options_on(DeviceChoice::kCuda, GetParam()), Group(), {});
  const testing::Difference difference = testing::largest_difference(gpu, host, kRounding);
  EXPECT_LT(difference.error, kFp32) << difference.of;
}

TEST_P(OnTheGpu, LossesInBf16AreTheHosts) {
  const testing::Outcome host = testing::train_for_parity(options_on(DeviceChoice::kCpu, GetParam(), Precision::kBf16), Group(), {}),
                         gpu = testing::train_for_parity(options_on(DeviceChoice::kCuda, GetParam(), Precision::kBf16), Group(), {});
  for (size_t i = 0; i < host.losses.size(); ++i) EXPECT_NEAR(gpu.losses[i], host.losses[i], kBf16 * host.losses[i]);
}

// A run that can be saved, on a device.
struct TinyRun {
  TinyRun(DeviceChoice device, const testing::TinyModel& tiny)
      : options(options_on(device, tiny)),
        model(options, Group(), {}),
        optimizer(options.optimizer, model.declarations(), model.store(), 10),
        train_step(model, optimizer, {.clip = options.train.clip}) {}

  double step(int64_t index) {
    const auto sequence = [&](int64_t i) { return testing::tiny_row(i, options); };
    return train_step.run(index, make_batches(sequence, index, {options.train.batch, options.train.batch, 1}, model.mesh())).loss;
  }
  std::string save(const fs::path& root) {
    return write_checkpoint(root.string(), {.step = 2, .tokens = 0, .config = {}, .mesh = {}, .version = {}, .notes = {}},
                            boxes_to_save(model.store(), optimizer), Group());
  }
  void load(const std::string& folder) {
    CheckpointReader reader(folder);
    load_weights(reader, model.store());
    load_optimizer(reader, model.store(), optimizer);
    model.store().gather();
    optimizer.set_updates(2);
  }

  Options options;
  RankModel model;
  Optimizer optimizer;
  TrainStep train_step;
};

std::string digests(const std::string& folder) {
  CheckpointReader reader(folder);
  return weights_digest(reader) + " " + optimizer_digest(reader);
}

// Stopped on one device, resumed on the other: every bit is there, and the next losses are those of the run that stayed.
TEST_P(OnTheGpu, CheckpointsOfEitherDeviceLoadOnTheOther) {
  const fs::path root = fs::temp_directory_path() / fmt::format("ropewalk_device_{}", getpid());
  for (const auto& [from, to] : {std::pair{DeviceChoice::kCpu, DeviceChoice::kCuda}, {DeviceChoice::kCuda, DeviceChoice::kCpu}}) {
    TinyRun first(from, GetParam()), second(to, GetParam());
    for (int64_t step = 0; step < 2; ++step) first.step(step);
    const std::string saved = first.save(root / "first");
    second.load(saved);
    EXPECT_EQ(digests(second.save(root / "second")), digests(saved));
    for (int64_t step = 2; step < 4; ++step) {
      const double stayed = first.step(step);
      EXPECT_NEAR(second.step(step), stayed, kFp32 * stayed);
    }
    fs::remove_all(root);
  }
}

INSTANTIATE_TEST_SUITE_P(TinyModels, OnTheGpu, ::testing::ValuesIn(testing::tiny_models()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ropewalk
