#include <filesystem>
#include <fstream>

#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;
using testing::kSmall;
using testing::mistake;
using testing::parse;
using testing::small_with;

// A folder for the files of one test.
class ConfigFiles : public ::testing::Test {
 protected:
  ConfigFiles() : folder_(fs::path(::testing::TempDir()) / fmt::format("ropewalk_config_{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~ConfigFiles() override { fs::remove_all(folder_); }

  std::string file(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(file(name)).parent_path());
    std::ofstream(file(name)) << text;
    return file(name);
  }

  fs::path folder_;
};

TEST_F(ConfigFiles, OverrideTheirBaseKeyByKey) {
  write("bases/small.yaml", kSmall);
  write("bases/sgd.yaml", "base: small.yaml\noptimizer: {type: sgd, schedule: {warmup: 5}}\n");
  const Config config =
      load_config(write("mine.yaml", "base: bases/sgd.yaml\ntrain:\n  steps: 20\ndata: {source: {path: other.txt}}\n"), {});
  EXPECT_EQ(config.options.optimizer.type, OptimizerOptions::kSgd);
  EXPECT_EQ(config.options.optimizer.values.lr, 3e-3);
  EXPECT_EQ(config.options.optimizer.values.schedule, (ScheduleOptions{.type = ScheduleOptions::kWsd, .warmup = 5}));
  EXPECT_EQ(config.options.train.steps, 20);
  EXPECT_EQ(config.options.train.batch, 8);
  EXPECT_EQ(std::get<TextSource>(config.options.data.source).path, "other.txt");
  EXPECT_EQ(config.options.run.dir, "runs/mine");
  EXPECT_EQ(config.where("train.steps").text(), file("mine.yaml") + ":3");
  EXPECT_EQ(config.where("train.batch").text(), file("bases/small.yaml") + ":17");
  EXPECT_EQ(config.where("optimizer.type").text(), file("bases/sgd.yaml") + ":2");
  EXPECT_EQ(config.resolved.find("base"), std::string::npos);
}

TEST_F(ConfigFiles, OverrideTheirBasesInOrder) {
  write("model.yaml", kSmall);
  write("less.yaml", "train: {steps: 5, batch: 4}\nmodel: {tokenizer: bytes, d_model: 32}\n");
  const Config config = load_config(write("mine.yaml", "base: [model.yaml, less.yaml]\nmodel: {d_model: 16}\n"), {});
  EXPECT_EQ(config.options.train.steps, 5);
  EXPECT_EQ(config.options.train.batch, 4);
  EXPECT_EQ(config.options.data.seq_len, 128);
  EXPECT_EQ(config.options.model.d_model, 16);
}

TEST_F(ConfigFiles, AreNamedByTheErrorsOfTheirValues) {
  write("small.yaml", small_with("hidden: 128", "hiden: 128"));
  EXPECT_EQ(mistake([&] { load_config(write("mine.yaml", "base: small.yaml\n"), {}); }),
            file("small.yaml") + ":6: model.blocks.F.hiden: unknown key; did you mean hidden?");
  write("small.yaml", kSmall);
  EXPECT_EQ(mistake([&] { load_config(write("mine.yaml", "base: small.yaml\nmodel:\n  layout: {ratio: \"1:1\"}\n"), {}); }),
            fmt::format("{0}:3: model.layout: expected one of pattern, ratio, rules or units, given pattern ({1}:8) and ratio ({0}:3)",
                        file("mine.yaml"), file("small.yaml")));
}

TEST_F(ConfigFiles, RefuseBasesThatAreNotThereOrGoRound) {
  EXPECT_EQ(mistake([&] { load_config(write("mine.yaml", "train: {}\nbase: none.yaml\n"), {}); }),
            fmt::format("{}:2: base: no such file: {}", file("mine.yaml"), file("none.yaml")));
  EXPECT_EQ(mistake([&] { load_config(write("mine.yaml", "base: {a: b}\n"), {}); }),
            fmt::format("{}:1: base: expected a file, given a mapping", file("mine.yaml")));
  EXPECT_EQ(mistake([&] { load_config(write("mine.yaml", "base:\n  - [a]\n"), {}); }),
            fmt::format("{}:2: base.0: expected a file, given [a]", file("mine.yaml")));
  write("a.yaml", "base: b.yaml\n");
  write("b.yaml", "base: ./a.yaml\n");
  EXPECT_EQ(mistake([&] { load_config(file("a.yaml"), {}); }),
            fmt::format("{1}:1: base: goes round in a circle: {0} -> {1} -> {0}", file("a.yaml"), file("b.yaml")));
}

TEST_F(ConfigFiles, MustBeThere) {
  EXPECT_EQ(mistake([&] { load_config(file("none.yaml"), {}); }), file("none.yaml") + ": cannot be read: No such file or directory");
  EXPECT_EQ(mistake([&] { load_config(folder_.string(), {}); }), folder_.string() + ": cannot be read: a folder");
}

TEST(Overrides, SetValuesOfAnyKind) {
  const Config config =
      parse(kSmall, {"train.steps=20", "checkpoint.every=5", "train.clip=null", "run.dir=runs/a=b", "model.layout={pattern: MA}",
                     "optimizer.groups.0.lr=5e-4", "optimizer.schedule={type: cosine}", "train.steps=30"});
  EXPECT_EQ(config.options.train.steps, 30);
  EXPECT_EQ(config.options.checkpoint.every, 5);
  EXPECT_EQ(config.options.train.clip, std::nullopt);
  EXPECT_EQ(config.options.run.dir, "runs/a=b");
  EXPECT_EQ(config.options.model.layers.size(), 2u);
  EXPECT_EQ(config.options.optimizer.groups[0].values.lr, 5e-4);
  EXPECT_EQ(config.options.optimizer.values.schedule, ScheduleOptions{.type = ScheduleOptions::kCosine});
}

TEST(Overrides, AreCheckedLikeTheFile) {
  const auto message = [](const std::string& override) { return mistake([&] { parse(kSmall, {override}); }); };
  EXPECT_EQ(message("train.steps=many"), "command line: train.steps: expected a positive integer, given many");
  EXPECT_EQ(message("train.stepz=5"), "command line: train.stepz: unknown key; did you mean steps?");
  EXPECT_EQ(message("trian.steps=5"), "command line: trian: unknown key; did you mean train?");
  EXPECT_EQ(message("optimizer.groups.1.lr=5"), "command line: optimizer.groups.1.lr: 1 is not an index of a list of 1");
  EXPECT_EQ(message("optimizer.groups.ssm.lr=5"), "command line: optimizer.groups.ssm.lr: ssm is not an index of a list of 1");
  EXPECT_EQ(message("train.steps.more=5"), "command line: train.steps.more: 10 cannot hold more (configs/x.yaml:17)");
  EXPECT_EQ(message("train.steps=[5"), "command line: train.steps: end of sequence flow not found");
  EXPECT_EQ(message("train.steps={a: 1, a: 2}"), "command line: train.steps.a: given twice (command line)");
  EXPECT_EQ(message("base=other.yaml"),
            "command line: base: unknown key; expected one of model, optimizer, data, train, parallel, checkpoint or run");
  for (const char* malformed : {"train.steps", "=5", ".steps=5", "train.=5", "train..steps=5", "--steps 5=5"})
    EXPECT_EQ(message(malformed), fmt::format("command line: expected key.path=value, given {}", malformed));
}

}  // namespace
}  // namespace ropewalk
