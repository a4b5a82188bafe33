// A checkpoint fits any mesh: what one mesh saved, another loads and saves again with the same digest, and goes on as one rank would.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/state.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {
namespace fs = std::filesystem;

struct Pair {
  std::string name;
  Degrees save, load;
};
using ModelAndPair = std::pair<testing::TinyModel, Pair>;

// A trainable copy of the tiny model on a mesh of the first ranks.
struct TinyRun {
  TinyRun(const testing::TinyModel& tiny, const Group& group, const Degrees& degrees, uint64_t seed)
      : options(seeded(tiny, seed)),
        model(options, group, degrees),
        optimizer(options.optimizer, model.declarations(), model.store(), 10),
        train_step(model, optimizer, {.clip = options.train.clip}) {}

  static Options seeded(const testing::TinyModel& tiny, uint64_t seed) {
    Options options = testing::tiny_options(tiny);
    options.train.seed = seed;
    return options;
  }
  double step(int64_t index) {
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    return train_step.run(index, make_batches(sequence, index, {options.train.batch, 1, 1}, model.mesh())).loss;
  }
  std::string save(const std::string& root) {
    return write_checkpoint(root, {.step = 2, .tokens = 0, .config = {}, .mesh = {}, .version = {}, .notes = {}},
                            boxes_to_save(model.store(), optimizer), model.mesh().all());
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

class Reshard : public ::testing::TestWithParam<ModelAndPair> {
 protected:
  void SetUp() override {
    root_ = testing::world().broadcast((fs::temp_directory_path() / fmt::format("ropewalk_reshard_{}", getpid())).string());
  }
  void TearDown() override {
    testing::world().barrier("teardown");
    if (testing::world().rank() == 0) fs::remove_all(root_);
    testing::world().barrier("teardown");
  }
  // Runs body(group) on the ranks of a mesh; the others wait.
  template <class Body>
  void on(const Degrees& degrees, const Body& body) {
    const bool member = testing::world().rank() < degrees.ranks();
    const Group group = testing::world().split(member ? 1 : 0);
    if (member) body(group);
    testing::world().barrier("mesh");
  }
  static std::string digests(const std::string& folder) {
    CheckpointReader reader(folder);
    return weights_digest(reader) + " " + optimizer_digest(reader);
  }
  std::string root_;
};

TEST_P(Reshard, KeepsEveryBitAndGoesOnAsOneRank) {
  const auto& [tiny, pair] = GetParam();
  std::string saved;
  on(pair.save, [&](const Group& group) {
    TinyRun run(tiny, group, pair.save, 1);
    for (int64_t step = 0; step < 2; ++step) run.step(step);
    saved = run.save(root_ + "/a");
  });
  saved = testing::world().broadcast(saved);

  TinyRun one(tiny, Group(), {}, 3);
  one.load(saved);
  on(pair.load, [&](const Group& group) {
    TinyRun run(tiny, group, pair.load, 2);
    run.load(saved);
    EXPECT_EQ(digests(run.save(root_ + "/b")), digests(saved));
    for (int64_t step = 2; step < 5; ++step) EXPECT_NEAR(run.step(step), one.step(step), 1e-10);
  });
}

std::vector<ModelAndPair> all_pairs() {
  const Pair pairs[] = {{"OneToTensor4", {}, {.tensor = 4}},
                        {"Tensor4ToOne", {.tensor = 4}, {}},
                        {"Tensor2ToTensor4", {.tensor = 2}, {.tensor = 4}},
                        {"Pipeline4ToTensor2", {.pipeline = 4}, {.tensor = 2}},
                        {"Pipeline4ToOne", {.pipeline = 4}, {}},
                        {"Data4ToPipeline2", {.data = 4}, {.pipeline = 2}},
                        {"Pipeline2ToContext4", {.pipeline = 2}, {.context = 4}},
                        {"Tensor2Data2ToPipeline4", {.data = 2, .tensor = 2}, {.pipeline = 4}},
                        {"Pipeline2Tensor2ToData2", {.pipeline = 2, .tensor = 2}, {.data = 2}},
                        {"Data2Context2ToPipeline2Tensor2", {.data = 2, .context = 2}, {.pipeline = 2, .tensor = 2}}};
  std::vector<ModelAndPair> all;
  for (const testing::TinyModel& tiny : testing::tiny_models())
    for (const Pair& pair : pairs) all.emplace_back(tiny, pair);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Meshes, Reshard, ::testing::ValuesIn(all_pairs()),
                         [](const auto& info) { return info.param.first.name + info.param.second.name; });

}  // namespace
}  // namespace ropewalk
