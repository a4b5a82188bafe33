#include "trainer/stage_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>

#include "layers/build_stack.h"
#include "layers/model.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

constexpr double kNoCut = std::numeric_limits<double>::infinity();

// The best that stage s and those behind it can make of the sub-layers from `begin` on: [s][begin].
struct Best {
  double value = kNoCut;
  size_t end = 0;  // of stage s; the first that is as good
};
using BestOf = std::vector<std::vector<Best>>;

class StageCutter {
 public:
  StageCutter(const std::vector<double>& loads, int stages, const StageFits& fits)
      : count_(loads.size()), stages_(static_cast<size_t>(stages)), fits_(fits), before_(loads.size() + 1) {
    std::partial_sum(loads.begin(), loads.end(), before_.begin() + 1);
  }

  std::optional<StageBegins> cut() const {
    const double largest = solve([](double load, double rest) { return std::max(load, rest); })[0][0].value;
    if (largest == kNoCut) return std::nullopt;
    const BestOf best = solve([&](double load, double rest) { return load > largest ? kNoCut : load * load + rest; });
    StageBegins begins;
    for (size_t stage = 0, begin = 0; stage < stages_; ++stage, begin = best[stage - 1][begin].end) begins.push_back(begin);
    return begins;
  }

 private:
  // add(load of a stage, value of the stages behind it): grows with both.
  template <class Add>
  BestOf solve(const Add& add) const {
    BestOf best(stages_ + 1, std::vector<Best>(count_ + 1));
    best[stages_][count_].value = 0;
    for (size_t stage = stages_; stage-- > 0;)
      for (size_t begin = stage; begin < count_; ++begin)
        for (size_t end = begin + 1; end <= count_; ++end) {
          const double rest = best[stage + 1][end].value;
          if (rest == kNoCut || (fits_ && !fits_(static_cast<int>(stage), begin, end))) continue;
          const double value = add(before_[end] - before_[begin], rest);
          if (value < best[stage][begin].value) best[stage][begin] = {value, end};
        }
    return best;
  }

  size_t count_, stages_;
  const StageFits& fits_;
  std::vector<double> before_;  // loads of all sub-layers before this one
};

size_t end_of(const StageBegins& begins, size_t stage, size_t sub_layers) {
  return stage + 1 < begins.size() ? begins[stage + 1] : sub_layers;
}

std::vector<double> sums(const std::vector<double>& loads, const StageBegins& begins) {
  std::vector<double> stages(begins.size());
  for (size_t stage = 0; stage < begins.size(); ++stage)
    for (size_t i = begins[stage]; i < end_of(begins, stage, loads.size()); ++i) stages[stage] += loads[i];
  return stages;
}

std::string shares(const std::vector<double>& loads) {
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  std::vector<std::string> texts;
  for (const double load : loads) texts.push_back(fmt::format("{:.1f}%", 100 * load / all));
  return join(texts, " ");
}

}  // namespace

std::optional<StageBegins> cut_stages(const std::vector<double>& loads, int stages, const StageFits& fits) {
  return StageCutter(loads, stages, fits).cut();
}

std::vector<StageTimes> sub_layer_work(const Options& options) {
  const TokenShape shape{.rows = options.train.micro_batch, .length = std::max<int64_t>(1, options.data.seq_len)};
  std::vector<StageTimes> work;
  for (const CallSite& site : build_stack(options.model, {}, {}, {})) {
    const double forward = site.core().cost(shape).flops;
    const bool again = options.train.recompute.of(site.core().kind()) == Recompute::kFull;
    work.push_back({.forward = forward, .backward = again ? 2 * forward : forward, .weights = forward});
  }
  const double head = head_cost(options.model, shape).flops;
  work.back() += {.forward = head, .backward = 2 * head, .weights = 0};  // which the head's rule computes together
  return work;
}

std::vector<StageTimes> stage_work(const std::vector<StageTimes>& sub_layers, const StageBegins& begins) {
  std::vector<StageTimes> work(begins.size());
  for (size_t stage = 0; stage < begins.size(); ++stage)
    for (size_t i = begins[stage]; i < end_of(begins, stage, sub_layers.size()); ++i) work[stage] += sub_layers[i];
  return work;
}

StageBegins stage_begins(const Options& options, int pipeline) {
  if (!options.parallel.stages.empty()) {
    StageBegins begins = {0};
    for (size_t stage = 0; stage + 1 < options.parallel.stages.size(); ++stage)
      begins.push_back(begins.back() + static_cast<size_t>(options.parallel.stages[stage]));
    return begins;
  }
  if (pipeline == 1) return {0};
  std::vector<double> loads;
  for (const StageTimes& work : sub_layer_work(options)) loads.push_back(work.total());
  return cut_stages(loads, pipeline * options.parallel.chunks()).value();
}

std::string stages_text(const StageBegins& begins, size_t sub_layers) {
  std::vector<std::string> counts;
  for (size_t stage = 0; stage < begins.size(); ++stage)
    counts.push_back(std::to_string(end_of(begins, stage, sub_layers) - begins[stage]));
  return "[" + join(counts, ",") + "]";
}

std::string describe_measured_cut(const Options& options, int pipeline, const std::vector<double>& seconds) {
  const auto with_shares = [&](const StageBegins& begins) {
    return fmt::format("parallel.stages={}: {}", stages_text(begins, seconds.size()), shares(sums(seconds, begins)));
  };
  return fmt::format("stages    {} of the time of sub-layers; by this time\n          {}\n", with_shares(stage_begins(options, pipeline)),
                     with_shares(cut_stages(seconds, pipeline * options.parallel.chunks()).value()));
}

std::string describe_pipeline(const Options& options, const Degrees& degrees) {
  const StageBegins begins = stage_begins(options, degrees.pipeline);
  const std::vector<StageTimes> sub_layers = sub_layer_work(options), work = stage_work(sub_layers, begins);
  std::vector<double> by_stage, by_rank(static_cast<size_t>(degrees.pipeline));
  for (size_t stage = 0; stage < work.size(); ++stage) {
    by_stage.push_back(work[stage].total());
    by_rank[stage % by_rank.size()] += work[stage].total();
  }
  const PipelineShape shape{.ranks = degrees.pipeline,
                            .chunks = options.parallel.chunks(),
                            .microbatches = static_cast<int>(options.train.batch / (options.train.micro_batch * degrees.data))};
  const PipelineSchedule schedule = options.parallel.schedule;
  const std::string ranks = shape.chunks > 1 ? fmt::format(" ({} by rank)", shares(by_rank)) : "";
  return fmt::format("parallel.stages={}: {} of the FLOPs{}; {}, {} microbatches: a predicted bubble of {:.1f}%, at most {} in flight",
                     stages_text(begins, sub_layers.size()), shares(by_stage), ranks, name_of(schedule), shape.microbatches,
                     100 * simulate(schedule, shape, work).bubble, most_in_flight(turns_of(schedule, shape, 0)));
}

}  // namespace ropewalk
