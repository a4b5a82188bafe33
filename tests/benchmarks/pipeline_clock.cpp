// Whether a pipeline's step takes as long as its schedule's simulation says, given what each stage's turns take: two ranks, every schedule.
// Usage: mpirun -n 2 pipeline_clock [largest relative difference allowed]
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "parallel/comm/mpi/mpi_transport.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/stage_cut.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

constexpr int kRanks = 2, kMicrobatches = 6, kRepetitions = 9;

// Eight layers of Mamba-2 and MLP, an attention among them, large enough that computing is what takes the time.
Options model_of(PipelineSchedule schedule, int chunks) {
  Options options;
  options.model.d_model = 256;
  options.model.vocabulary = 512;
  options.model.blocks = {{"M", Mamba2Options{.heads = 8, .head_dim = 64, .state = 32, .groups = 1, .conv = 4, .chunk = 64}},
                          {"A", AttentionBlockOptions{.heads = 8, .kv_heads = 4, .head_dim = 32, .rope = RopeOptions{}, .window = {}}},
                          {"F", MlpOptions{.hidden = 1024}}};
  options.model.layers = {{"M", "F"}, {"M", "F"}, {"A", "F"}, {"M", "F"}, {"M", "F"}, {"M", "F"}, {"A", "F"}, {"M", "F"}};
  options.data.seq_len = 512;
  options.train.batch = kMicrobatches;
  options.train.precision = Precision::kFp32;
  options.parallel.pipeline = kRanks;
  options.parallel.schedule = schedule;
  options.parallel.virtual_stages = chunks;
  return options;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

// Seconds of each turn in their order, without waiting.
std::vector<double> turn_seconds(const Timeline& timeline) {
  std::vector<double> turns;
  int64_t waited = 0;
  for (const TimeSpan& span : timeline.spans()) {  // by their ends: waits come before the turn around them
    if (span.kind == TimeSpan::kWait) waited += span.end - span.begin;
    if (span.kind != TimeSpan::kPhase) continue;
    turns.push_back(static_cast<double>(span.end - span.begin - std::exchange(waited, 0)) * 1e-9);
  }
  return turns;
}

class Clock {
 public:
  Clock(const Options& options, const Group& world)
      : options_(options),
        world_(world),
        model_(options, world, {.pipeline = kRanks}),
        pipeline_(model_.model(), model_.mesh(), model_.pipeline_options()),
        shape_{.ranks = kRanks, .chunks = options.parallel.chunks(), .microbatches = kMicrobatches},
        turns_(turns_of(options.parallel.schedule, shape_, world.rank())) {
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    batches_ = make_batches(sequence, 0, {kMicrobatches, 1, 1}, model_.mesh());
  }

  // The relative difference between what the simulation says and what the clock says.
  double compare() {
    for (int i = 0; i < 2; ++i) wall();
    std::vector<double> walls;
    std::vector<std::vector<double>> seconds(turns_.size());
    for (int i = 0; i < kRepetitions; ++i) {
      walls.push_back(wall());
      Timeline timeline;
      {
        const Recording recording(timeline);
        wall();
      }
      const std::vector<double> turns = turn_seconds(timeline);
      for (size_t turn = 0; turn < turns_.size(); ++turn) seconds[turn].push_back(turns[turn]);
    }
    return report(median(walls), stage_times(seconds));
  }

 private:
  // Of one step, from when both ranks begin to when the last has ended.
  double wall() {
    world_.barrier("clock");
    const int64_t begin = now_ns();
    pipeline_.forward_backward(batches_, {});
    return world_.max(static_cast<double>(now_ns() - begin) * 1e-9, "clock");
  }

  // Of all stages: each rank knows its own. The median over repetitions, the mean over microbatches.
  std::vector<StageTimes> stage_times(const std::vector<std::vector<double>>& seconds) const {
    const int stages = shape_.stages();
    std::vector<double> mine(static_cast<size_t>(3 * stages));
    for (size_t turn = 0; turn < turns_.size(); ++turn) {
      const int stage = turns_[turn].chunk * kRanks + world_.rank();
      mine[static_cast<size_t>(turns_[turn].part * stages + stage)] += median(seconds[turn]) / kMicrobatches;
    }
    const Tensor all = world_.all_reduce(Tensor::from<double>({3, stages}, mine), "clock");
    std::vector<StageTimes> times;
    for (int stage = 0; stage < stages; ++stage) {
      const auto of = [&](Turn::Part part) { return all.select(0, part).narrow(0, stage, 1).item(); };
      times.push_back({.forward = of(Turn::kForward), .backward = of(Turn::kBackward), .weights = of(Turn::kWeights)});
    }
    return times;
  }

  double report(double wall, const std::vector<StageTimes>& times) const {
    const PipelineSchedule schedule = options_.parallel.schedule;
    StageTimes mean;
    for (const StageTimes& stage : times) mean += stage;
    const double n = static_cast<double>(times.size());
    mean = {mean.forward / n, mean.backward / n, mean.weights / n};
    const double work = mean.total() * n * kMicrobatches;
    const PipelineSimulation simulated = simulate(schedule, shape_, times),
                             equal = simulate(schedule, shape_, std::vector<StageTimes>(times.size(), mean));
    const double difference = wall / simulated.makespan - 1;
    if (world_.rank() == 0)
      std::cout << fmt::format(
          "{:<12} {} stages: clock {:.1f} ms, simulated {:.1f} ms ({:+.1f}%); bubble: clock {:.1f}%, simulated {:.1f}%, of equal stages "
          "simulated {:.2f}%, formula {:.2f}%\n",
          name_of(schedule), times.size(), 1e3 * wall, 1e3 * simulated.makespan, 100 * difference, 100 * (1 - work / (kRanks * wall)),
          100 * simulated.bubble, 100 * equal.bubble, 100 * bubble_of_equal_stages(schedule, shape_, mean));
    return difference;
  }

  Options options_;
  Group world_;
  RankModel model_;
  Pipeline pipeline_;
  PipelineShape shape_;
  Turns turns_;
  std::vector<Microbatch> batches_;
};

}  // namespace
}  // namespace ropewalk

int main(int argc, char** argv) {
  using namespace ropewalk;
  const MpiSession session(&argc, &argv);
  const Group world = session.world(60);
  const double allowed = argc > 1 ? std::atof(argv[1]) : 0.15;
  bool kept = true;
  for (const auto& [schedule, chunks] : {std::pair(PipelineSchedule::k1F1B, 1), std::pair(PipelineSchedule::kZeroBubble, 1),
                                         std::pair(PipelineSchedule::kInterleaved, 2), std::pair(PipelineSchedule::kInterleaved, 4)})
    kept &= std::abs(Clock(model_of(schedule, chunks), world).compare()) <= allowed;
  return kept ? 0 : 1;
}
