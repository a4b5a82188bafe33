#include "trainer/bench.h"

#include <omp.h>
#include <sys/resource.h>

#include <algorithm>

#include "kernels/ceilings/ceilings.h"
#include "kernels/matmul/matmul.h"
#include "kernels/tensor/allocator.h"
#include "kernels/tensor/isa.h"
#include "kernels/tensor/philox.h"
#include "trainer/op_times.h"
#include "trainer/stage_cut.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

constexpr double kGiga = 1e9;
constexpr int64_t kRecordedSteps = 3;
constexpr int64_t kNoSteps = 1000;  // what schedules think a run's length is where the configuration says none

// One document of tokens drawn at random, a pure function of i.
Sequence random_sequence(int64_t i, int64_t seq_len, int64_t vocabulary) {
  const Philox random(1, "bench");
  Sequence row;
  for (int64_t t = 0; t <= seq_len; ++t) {
    const double draw = random.uniform(static_cast<uint64_t>(i * (seq_len + 1) + t));
    const auto token = static_cast<int64_t>(draw * static_cast<double>(vocabulary));
    if (t < seq_len) row.tokens.push_back(token);
    if (t > 0) row.targets.push_back(token);
  }
  row.document_begins = {0};
  return row;
}

// FLOP/s of the program's own product of square matrices, in this dtype, at its best of a few.
double product_rate(DType dtype) {
  constexpr int64_t kSize = 2048;
  const Tensor a = Tensor::full({kSize, kSize}, 0.5, dtype), b = Tensor::full({kSize, kSize}, 0.25, dtype),
               c = Tensor::zeros({kSize, kSize}, dtype);
  double best = 0;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const int64_t begin = now_ns();
    launch(c.device(), MatMul{.c = c, .a = a, .b = b, .transpose_b = true});
    best = std::max(best, 2.0 * kSize * kSize * kSize / (static_cast<double>(now_ns() - begin) * 1e-9));
  }
  return best;
}

double resident_peak() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

std::string gib(double bytes) { return fmt::format("{:.2f} GiB", bytes / (1 << 30)); }

// A number that is there only where there is something to divide by.
std::string rate(double amount, double seconds) { return amount > 0 && seconds > 0 ? fmt::format("{:.1f}", amount / seconds / kGiga) : ""; }
std::string share(double amount, double whole) { return amount > 0 && whole > 0 ? fmt::format("{:.1f}%", 100 * amount / whole) : ""; }

class Bench {
 public:
  Bench(const Config& config, const BenchOptions& bench, const Group& world)
      : options_(config.options),
        bench_(bench),
        world_(world),
        model_(options_, world, resolve_mesh(config, world.size())),
        optimizer_(options_.optimizer, model_.declarations(), model_.store(), std::max(kNoSteps, options_.train.steps)),
        step_(model_, optimizer_, {.clip = options_.train.clip}) {}

  std::string run() {
    measure_machine();
    for (int64_t i = 0; i < bench_.warmup; ++i) step();
    Allocator::host().reset_peak();
    const int64_t before = Allocator::host().stats().system_calls;
    std::vector<double> seconds;
    for (int64_t i = 0; i < bench_.steps; ++i) seconds.push_back(step());
    system_calls_ = static_cast<double>(Allocator::host().stats().system_calls - before) / static_cast<double>(bench_.steps);
    memory_ = world_.max(static_cast<double>(Allocator::host().stats().peak), "bench");
    resident_ = world_.max(resident_peak(), "bench");
    std::sort(seconds.begin(), seconds.end());
    Timeline timeline;
    {
      const Recording recording(timeline);
      for (int64_t i = 0; i < kRecordedSteps; ++i) step();
    }
    return machine() + whole(seconds) + stages(place_times(timeline)) + ops(op_times(timeline));
  }

 private:
  DType dtype() const { return compute_dtype(options_.train.precision); }
  double tokens() const { return static_cast<double>(options_.train.batch * options_.data.seq_len); }
  // Of forward and backward.
  double flops() const { return 3 * model_.model().cost({.rows = options_.train.batch, .length = options_.data.seq_len}).flops; }

  void measure_machine() {
    world_.barrier("bench");  // all ranks measure at once: they share the machine as in a step
    const Ceilings mine = measure_ceilings();
    ceilings_ = {.fp64 = world_.sum(mine.fp64, "bench"), .fp32 = world_.sum(mine.fp32, "bench"), .bf16 = world_.sum(mine.bf16, "bench")};
    bandwidth_ = world_.sum(measure_memory(), "bench");
    product_ = world_.sum(product_rate(dtype()), "bench");
    Allocator::host().trim();
  }

  // Seconds of one step: batches, forward, backward, gradient sums, clipping, update.
  double step() {
    const Phase whole("step");
    const auto sequence = [&](int64_t i) { return random_sequence(i, options_.data.seq_len, options_.model.vocabulary); };
    world_.barrier("bench");
    const int64_t begin = now_ns();
    const BatchPlan plan{options_.train.batch, options_.train.micro_batch, options_.parallel.context_runs};
    step_.run(index_, make_batches(sequence, index_, plan, model_.mesh()));
    ++index_;
    return static_cast<double>(now_ns() - begin) * 1e-9;
  }

  std::string machine() const {
    return fmt::format(
        "machine   {} ranks x {} threads, {}\nceilings  {:.0f} GFLOP/s fp32, {:.0f} GFLOP/s bf16, {:.1f} GB/s copied; the best product of "
        "matrices here: {:.0f} GFLOP/s {}\n",
        world_.size(), omp_get_max_threads(), name_of(isa()), ceilings_.fp32 / kGiga, ceilings_.bf16 / kGiga, bandwidth_ / kGiga,
        product_ / kGiga, name_of(dtype()));
  }

  std::string whole(const std::vector<double>& sorted) const {
    const double median = sorted[sorted.size() / 2];
    std::string text = fmt::format("step      {:.1f} ms: median of {} ({:.1f} to {:.1f}); {:.0f} tokens, {:.0f} tokens/s\n", 1e3 * median,
                                   sorted.size(), 1e3 * sorted.front(), 1e3 * sorted.back(), tokens(), tokens() / median);
    text += fmt::format("          {:.0f} GFLOP by the model, {:.0f} GFLOP/s: {} of the {} ceiling\n", flops() / kGiga,
                        flops() / median / kGiga, share(flops() / median, ceilings_.of(dtype())), name_of(dtype()));
    return text + fmt::format("memory    {} of tensors, {} resident at peak; {:.1f} requests to the system a step\n", gib(memory_),
                              gib(resident_), system_calls_);
  }

  // Every sub-layer is on one stage, whose rank measured it. The embedding counts with the first, the head with the last.
  std::string stages(const std::map<std::string, double>& measured) const {
    const Group& pipeline = model_.mesh().pipeline();
    if (pipeline.size() == 1) return "";
    std::vector<double> mine;
    for (const std::string& place : model_.model().places()) mine.push_back(measured.contains(place) ? measured.at(place) : 0);
    const auto all = pipeline.all_reduce(Tensor::from<double>({std::ssize(mine)}, mine), "bench").to_vector<double>();
    std::vector<double> sub_layers(all.begin() + 1, all.end() - 1);
    sub_layers.front() += all.front();
    sub_layers.back() += all.back();
    return describe_measured_cut(options_, pipeline.size(), sub_layers);
  }

  std::string ops(const std::vector<OpTime>& times) const {
    double total = 0;
    for (const OpTime& op : times) total += op.seconds;
    std::string text =
        fmt::format("\n{:<34} {:>7} {:>9} {:>7} {:>9} {:>8} {:>8} {:>9}\n", fmt::format("a step, by op ({} recorded)", kRecordedSteps),
                    "calls", "ms", "share", "GFLOP/s", "ceiling", "GB/s", "of copy");
    for (const OpTime& op : times) {
      const double seconds = op.seconds / kRecordedSteps, work = op.effort.flops / kRecordedSteps, bytes = op.effort.bytes / kRecordedSteps;
      text += fmt::format("{:<34} {:>7} {:>9.2f} {:>7} {:>9} {:>8} {:>8} {:>9}\n", op.name, op.calls / kRecordedSteps, 1e3 * seconds,
                          share(op.seconds, total), rate(work, seconds), share(work / seconds, rank_ceiling()), rate(bytes, seconds),
                          share(bytes / seconds, bandwidth_ / world_.size()));
    }
    return text;
  }
  double rank_ceiling() const { return ceilings_.of(dtype()) / world_.size(); }

  const Options& options_;
  BenchOptions bench_;
  Group world_;
  RankModel model_;
  Optimizer optimizer_;
  TrainStep step_;
  int64_t index_ = 0;
  Ceilings ceilings_;
  double bandwidth_ = 0, product_ = 0, memory_ = 0, resident_ = 0, system_calls_ = 0;
};

}  // namespace

std::string bench(const Config& config, const BenchOptions& options, const Group& world) { return Bench(config, options, world).run(); }

}  // namespace ropewalk
