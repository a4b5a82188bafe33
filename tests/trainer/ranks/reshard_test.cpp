// A checkpoint fits any mesh: what one mesh saved, another loads and saves again with the same digest, and goes on as one rank would.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <set>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/config/config.h"
#include "trainer/state.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {
namespace fs = std::filesystem;

// Sizes that 1 to 4 ranks divide, but for the models' own.
constexpr int64_t kSeqLen = 24, kBatch = 12;
constexpr int kDrawn = 40;  // pairs

// How a run lies on ranks.
struct Place {
  Degrees degrees{};
  int zero = 0;
  PipelineSchedule schedule = PipelineSchedule::k1F1B;
  int chunks = 1;
};

struct Pair {
  std::string name;
  Place save, load;
};
using ModelAndPair = std::pair<testing::TinyModel, Pair>;

Options options_of(const testing::TinyModel& tiny, const Place& place, uint64_t seed) {
  Options options = testing::tiny_options(tiny);
  options.data.seq_len = kSeqLen;
  options.train.batch = kBatch;
  options.train.micro_batch = place.degrees.pipeline > 1 ? 1 : kBatch / place.degrees.data;
  options.train.seed = seed;
  options.parallel.pipeline = place.degrees.pipeline;
  options.parallel.data = place.degrees.data;
  options.parallel.context = place.degrees.context;
  options.parallel.tensor = place.degrees.tensor;
  options.parallel.expert = place.degrees.expert;
  options.parallel.zero = place.zero;
  options.parallel.schedule = place.schedule;
  options.parallel.virtual_stages = place.chunks;
  return options;
}

// A trainable copy of the tiny model on a mesh of the first ranks.
struct TinyRun {
  TinyRun(const testing::TinyModel& tiny, const Group& group, const Place& place, uint64_t seed)
      : options(options_of(tiny, place, seed)),
        model(options, group, place.degrees),
        optimizer(options.optimizer, model.declarations(), model.store(), 10),
        train_step(model, optimizer, {.clip = options.train.clip}) {}

  double step(int64_t index) {
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    return train_step.run(index, make_batches(sequence, index, {options.train.batch, options.train.micro_batch, 1}, model.mesh())).loss;
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
  // Runs body(group) on the ranks of a place; the others wait.
  template <class Body>
  void on(const Place& place, const Body& body) {
    const bool member = testing::world().rank() < place.degrees.ranks();
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

  std::vector<double> losses;  // of one rank that goes on
  if (testing::world().rank() == 0) {
    TinyRun one(tiny, Group(), {}, 3);
    one.load(saved);
    for (int64_t step = 2; step < 5; ++step) losses.push_back(one.step(step));
  }
  on(pair.load, [&](const Group& group) {
    TinyRun run(tiny, group, pair.load, 2);
    run.load(saved);
    EXPECT_EQ(digests(run.save(root_ + "/b")), digests(saved));
    for (int64_t step = 2; step < 5; ++step) {
      const double loss = run.step(step);
      if (group.rank() > 0) continue;
      EXPECT_NEAR(loss, losses[static_cast<size_t>(step - 2)], 1e-10);
    }
  });
}

// Every axis to another.
const std::vector<Pair>& chosen_pairs() {
  static const std::vector<Pair> pairs = {{"OneToTensor4", {}, {{.tensor = 4}}},
                                          {"Tensor4ToOne", {{.tensor = 4}}, {}},
                                          {"Tensor2ToTensor4", {{.tensor = 2}}, {{.tensor = 4}}},
                                          {"Pipeline4ToTensor2", {{.pipeline = 4}}, {{.tensor = 2}}},
                                          {"Pipeline4ToOne", {{.pipeline = 4}}, {}},
                                          {"Data4ToPipeline2", {{.data = 4}}, {{.pipeline = 2}}},
                                          {"Pipeline2ToContext4", {{.pipeline = 2}}, {{.context = 4}}},
                                          {"Tensor2Data2ToPipeline4", {{.data = 2, .tensor = 2}}, {{.pipeline = 4}}},
                                          {"Pipeline2Tensor2ToData2", {{.pipeline = 2, .tensor = 2}}, {{.data = 2}}},
                                          {"Data2Context2ToPipeline2Tensor2", {{.data = 2, .context = 2}}, {{.pipeline = 2, .tensor = 2}}}};
  return pairs;
}

// Whether the configuration would let a model on it.
bool fits(const testing::TinyModel& tiny, const Place& place) {
  try {
    resolve_mesh({.options = options_of(tiny, place, 1), .resolved = {}, .places = {}}, place.degrees.ranks());
  } catch (const ConfigError&) {
    return false;
  }
  return true;
}

std::vector<Degrees> meshes_of_up_to(int ranks) {
  std::vector<Degrees> meshes;
  for (int pipeline = 1; pipeline <= ranks; ++pipeline)
    for (int data = 1; data <= ranks; ++data)
      for (int context = 1; context <= ranks; ++context)
        for (int tensor = 1; tensor <= ranks; ++tensor)
          for (int expert = 1; expert <= data * context; ++expert)
            if (const Degrees degrees{pipeline, data, context, tensor, expert}; degrees.ranks() <= ranks) meshes.push_back(degrees);
  return meshes;
}

std::string name_of(const Place& place) {
  std::string name;
  for (const Axis axis : kAxes)
    if (place.degrees.of(axis) > 1) name += fmt::format("{}{}", name_of(axis), place.degrees.of(axis));
  if (place.degrees.expert > 1) name += fmt::format("expert{}", place.degrees.expert);
  if (place.schedule == PipelineSchedule::kZeroBubble) name += "zerobubble";
  if (place.chunks > 1) name += fmt::format("chunks{}", place.chunks);
  return name + fmt::format("zero{}", place.zero);
}

// A generator of its own: the standard's distributions differ from library to library.
class Draws {
 public:
  template <class T>
  const T& of(const std::vector<T>& all) {
    return all[random_() % all.size()];
  }
  // Every place that the model fits: first among the meshes, then among what a mesh may have besides.
  Place place(const testing::TinyModel& tiny) {
    static const std::vector<Degrees> meshes = meshes_of_up_to(4);
    using enum PipelineSchedule;
    for (;;) {
      Place drawn{.degrees = of(meshes), .zero = of(std::vector{0, 1, 2, 3})};
      if (drawn.degrees.pipeline > 1) drawn.schedule = of(std::vector{k1F1B, kZeroBubble, kInterleaved});
      if (drawn.schedule == kInterleaved) drawn.chunks = of(std::vector{2, 3});
      const bool has_experts = tiny.name == "Experts";
      if ((has_experts || drawn.degrees.expert == 1) && fits(tiny, drawn)) return drawn;
    }
  }

 private:
  std::mt19937_64 random_{4};
};

std::vector<ModelAndPair> drawn_pairs(int number) {
  Draws draws;
  std::vector<ModelAndPair> all;
  for (int i = 0; i < number; ++i) {
    const testing::TinyModel& tiny = testing::tiny_models()[static_cast<size_t>(i) % testing::tiny_models().size()];
    Pair pair{.name = {}, .save = draws.place(tiny), .load = draws.place(tiny)};
    pair.name = fmt::format("{}_{}_to_{}", i, name_of(pair.save), name_of(pair.load));
    all.emplace_back(tiny, pair);
  }
  return all;
}

// What there is to change about a place.
std::set<std::string> kinds_of(const Place& place) {
  std::set<std::string> kinds = {fmt::format("zero {}", place.zero)};
  for (const Axis axis : kAxes)
    if (place.degrees.of(axis) > 1) kinds.insert(name_of(axis));
  if (place.degrees.expert > 1) kinds.insert("expert");
  if (place.degrees.pipeline > 1) kinds.insert(name_of(place.schedule));
  return kinds;
}

TEST(DrawnPairs, SaveAndLoadOnEveryKindOfPlace) {
  std::set<std::string> saved, loaded;
  for (const auto& [tiny, pair] : drawn_pairs(kDrawn)) {
    saved.merge(kinds_of(pair.save));
    loaded.merge(kinds_of(pair.load));
  }
  EXPECT_EQ(saved, loaded);
  EXPECT_EQ(saved.size(), 4u + 5u + 3u);  // ZeRO levels, axes, schedules
}

std::vector<ModelAndPair> chosen_pairs_of_the_first_model() {
  std::vector<ModelAndPair> all;
  for (const Pair& pair : chosen_pairs()) all.emplace_back(testing::tiny_models().front(), pair);
  return all;
}

const auto name = [](const auto& info) { return info.param.first.name + info.param.second.name; };
INSTANTIATE_TEST_SUITE_P(Chosen, Reshard, ::testing::ValuesIn(chosen_pairs_of_the_first_model()), name);
INSTANTIATE_TEST_SUITE_P(Drawn, Reshard, ::testing::ValuesIn(drawn_pairs(kDrawn)), name);

}  // namespace
}  // namespace ropewalk
