#include "trainer/stage_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <numeric>

#include "kernels/tensor/philox.h"
#include "tests/support/tiny_model.h"
#include "trainer/config/config.h"

namespace ropewalk {
namespace {

std::vector<double> loads_of(const std::vector<double>& loads, const StageBegins& begins) {
  std::vector<double> stages;
  for (size_t stage = 0; stage < begins.size(); ++stage) {
    const size_t end = stage + 1 < begins.size() ? begins[stage + 1] : loads.size();
    stages.push_back(std::accumulate(loads.begin() + std::ptrdiff_t(begins[stage]), loads.begin() + std::ptrdiff_t(end), 0.0));
  }
  return stages;
}

double largest_of(const std::vector<double>& loads, const StageBegins& begins) {
  const std::vector<double> stages = loads_of(loads, begins);
  return *std::max_element(stages.begin(), stages.end());
}

// What is made as small as possible, in this order.
std::tuple<double, double, StageBegins> worth(const std::vector<double>& loads, const StageBegins& begins) {
  const std::vector<double> stages = loads_of(loads, begins);
  return {largest_of(loads, begins), std::inner_product(stages.begin(), stages.end(), stages.begin(), 0.0), begins};
}

bool fits_all(const StageFits& fits, const StageBegins& begins, size_t sub_layers) {
  for (size_t stage = 0; fits && stage < begins.size(); ++stage)
    if (!fits(int(stage), begins[stage], stage + 1 < begins.size() ? begins[stage + 1] : sub_layers)) return false;
  return true;
}

// Every cut there is.
std::optional<StageBegins> best_of_all(const std::vector<double>& loads, int stages, const StageFits& fits) {
  std::optional<StageBegins> best;
  std::vector<bool> chosen(loads.size() - 1);
  std::fill_n(chosen.begin(), stages - 1, true);
  do {
    StageBegins begins = {0};
    for (size_t i = 0; i < chosen.size(); ++i)
      if (chosen[i]) begins.push_back(i + 1);
    if (fits_all(fits, begins, loads.size()) && (!best || worth(loads, begins) < worth(loads, *best))) best = begins;
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
  return best;
}

// Fewest stages of at most this load, filled one after the other.
int stages_needed(const std::vector<double>& loads, double most) {
  int stages = 1;
  double filled = 0;
  for (const double load : loads) {
    if (load > most) return std::numeric_limits<int>::max();
    filled += load;
    if (filled <= most) continue;
    ++stages;
    filled = load;
  }
  return stages;
}

StageBegins even_by_count(size_t sub_layers, size_t stages) {
  StageBegins begins;
  for (size_t s = 0; s < stages; ++s) begins.push_back(s * (sub_layers / stages) + std::min(s, sub_layers % stages));
  return begins;
}

TEST(CutStages, FindsTheBestOfAllCuts) {
  const Philox random(3, "loads");
  uint64_t draws = 0;
  const auto draw = [&](int below) { return int(random.uniform(draws++) * below); };
  for (int repetition = 0; repetition < 400; ++repetition) {
    const int sub_layers = 1 + draw(11), stages = 1 + draw(std::min(sub_layers, 6)),
              range = repetition % 2 == 0 ? 4 : 1000;  // 4: many ties
    std::vector<double> loads, bytes;
    for (int i = 0; i < sub_layers; ++i) {
      loads.push_back(draw(range));
      bytes.push_back(1 + draw(9));
    }
    // The first stages hold more microbatches in flight.
    const double cap = 10 + draw(80);
    const StageFits fits = [&](int stage, size_t begin, size_t end) {
      return std::accumulate(bytes.begin() + std::ptrdiff_t(begin), bytes.begin() + std::ptrdiff_t(end), 0.0) * (stages - stage) <= cap;
    };
    EXPECT_EQ(cut_stages(loads, stages), best_of_all(loads, stages, {})) << repetition;
    EXPECT_EQ(cut_stages(loads, stages, fits), best_of_all(loads, stages, fits)) << repetition;
  }
}

TEST(CutStages, SaysWhereNothingFits) {
  EXPECT_FALSE(cut_stages({1, 2, 3}, 2, [](int, size_t, size_t end) { return end < 3; }));
  EXPECT_TRUE(cut_stages({1, 2, 3}, 2, [](int, size_t begin, size_t end) { return end - begin < 3; }));
}

TEST(CutStages, CutsNemotronHAsWellAsCanBe) {
  const Config config = load_config(ROPEWALK_SOURCE "/configs/models/nemotron-h-8b.yaml", {"data.seq_len=8192"});
  std::vector<double> loads;
  for (const StageTimes& work : sub_layer_work(config.options)) loads.push_back(work.total());
  ASSERT_EQ(loads.size(), 52u);
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  for (const int stages : {4, 8}) {
    const StageBegins cut = cut_stages(loads, stages).value();
    const double largest = largest_of(loads, cut), by_count = largest_of(loads, even_by_count(52, size_t(stages)));
    std::cout << fmt::format(
        "52 sub-layers, {} stages: {}: the largest is {:.2f}% of the work, where {:.2f}% is a whole stage's share; by count it is "
        "{:.2f}%\n",
        stages, stages_text(cut, 52), 100 * largest / all, 100.0 / stages, 100 * by_count / all);
    EXPECT_LE(stages_needed(loads, largest), stages);
    EXPECT_GT(stages_needed(loads, largest * (1 - 1e-9)), stages) << "a smaller largest stage is possible";
    EXPECT_LT(largest, by_count);
  }
}

TEST(SubLayerWork, CountsTheHeadAndWhatIsComputedAgain) {
  Options options = testing::tiny_options();
  const auto total = [](const std::vector<StageTimes>& work) {
    double sum = 0;
    for (const StageTimes& one : work) sum += one.total();
    return sum;
  };
  const auto plain = sub_layer_work(options);
  EXPECT_EQ(plain.size(), 9u);
  const double head = 3.0 * 2 * 32 * 8 * 13;
  options.model.vocabulary *= 2;
  EXPECT_NEAR(sub_layer_work(options).back().total() - plain.back().total(), head, 1e-9);
  options.model.vocabulary /= 2;
  options.train.recompute = Recompute::kFull;
  EXPECT_NEAR(total(sub_layer_work(options)), (total(plain) - head) * 4 / 3 + head, 1e-6);
}

TEST(StageBegins, AreTheGivenOnesOrCutByWork) {
  Options options = testing::tiny_options();
  EXPECT_EQ(stage_begins(options, 1), (StageBegins{0}));
  std::vector<double> loads;
  for (const StageTimes& work : sub_layer_work(options)) loads.push_back(work.total());
  options.parallel.pipeline = 2;
  EXPECT_EQ(stage_begins(options, 2), cut_stages(loads, 2));
  options.parallel.virtual_stages = 3;
  EXPECT_EQ(stage_begins(options, 2), cut_stages(loads, 6));
  options.parallel.stages = {1, 2, 1, 2, 1, 2};
  EXPECT_EQ(stage_begins(options, 2), (StageBegins{0, 1, 3, 4, 6, 7}));
}

TEST(DescribePipeline, SaysTheCutAndTheBubble) {
  Options options = testing::tiny_options();
  options.parallel.pipeline = 2;
  options.parallel.stages = {4, 5};
  const std::string text = describe_pipeline(options, {.pipeline = 2});
  EXPECT_EQ(text.substr(0, text.find(':')), "parallel.stages=[4,5]");
  EXPECT_NE(text.find("; 1f1b, 4 microbatches: a predicted bubble of "), std::string::npos) << text;
  EXPECT_NE(text.find(", at most 2 in flight"), std::string::npos) << text;
}

}  // namespace
}  // namespace ropewalk
