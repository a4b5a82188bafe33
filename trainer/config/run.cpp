// The sections that say how to run: `train`, `parallel`, `checkpoint`, `run`.
#include <limits>
#include <set>

#include "kernels/tensor/memory.h"
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

int64_t count_or_zero(const Node& node, int64_t otherwise) { return node.integer(0, std::numeric_limits<int32_t>::max(), otherwise); }

bool read_residual(const Node& node, Precision precision) {
  const bool wide = node.choice<bool>({{"fp32", true}, {"bf16", false}}, true);
  if (!wide && precision != Precision::kBf16) throw node.error("bf16 needs train.precision: bf16");
  return wide;
}

RecomputePolicy read_recompute(const Node& node) {
  if (!node.is(Value::kList)) return node.choice<Recompute>({{"none", Recompute::kNone}, {"full", Recompute::kFull}}, Recompute::kNone);
  Choices<std::string> kinds;
  for (const char* kind : {"mamba1", "mamba2", "attention", "mlp", "moe", "parallel"}) kinds.emplace_back(kind, kind);
  std::set<std::string> some;
  for (const Node& item : node.items()) some.insert(item.choice(kinds));
  return RecomputePolicy(some);
}

std::optional<SpikeOptions> read_skip_spikes(const Node& node) {
  if (node.is_null(true)) return std::nullopt;
  SpikeOptions spikes;
  spikes.sigma = node["sigma"].about("Standard deviations above the mean that a step must keep below.").number(kPositive, spikes.sigma);
  spikes.window = node["window"].about("Steps that it is compared with; never before half of them.").integer(2, 1 << 20, spikes.window);
  return spikes;
}

std::optional<TraceOptions> read_trace(const Node& node) {
  if (node.is_null(true)) return std::nullopt;
  return TraceOptions{.from = node["from"].about("The first of them, counted from 1.").size(),
                      .steps = node["steps"].about("How many.").size(1)};
}

std::optional<double> read_peak(const Node& node) {
  if (node.is_null(true)) return std::nullopt;
  return node.number(kPositive);
}

DeviceChoice read_device(const Node& node) {
  using enum DeviceChoice;
  const DeviceChoice device = node.choice<DeviceChoice>({{"auto", kAuto}, {"cpu", kCpu}, {"cuda", kCuda}}, kAuto);
  if (device != kCuda) return device;
  if (!kHasCuda) throw node.error("this build has no CUDA back end (cmake --preset cuda makes one that has); expected auto or cpu");
  if (!available(Cuda{})) throw node.error("this machine has no GPU that CUDA can use; expected auto or cpu");
  return device;
}

PipelineSchedule read_schedule(const Node& node, int virtual_stages) {
  using enum PipelineSchedule;
  Choices<PipelineSchedule> choices;
  for (const PipelineSchedule schedule : {k1F1B, kInterleaved, kZeroBubble}) choices.emplace_back(name_of(schedule), schedule);
  return node.choice<PipelineSchedule>(choices, virtual_stages > 1 ? kInterleaved : k1F1B);
}

std::vector<int> read_stages(const Node& node) {
  std::vector<int> stages;
  if (node.is_null(true)) return stages;
  for (const Node& item : node.items()) stages.push_back(static_cast<int>(item.size()));
  return stages;
}

}  // namespace

TrainOptions read_train(const Node& node) {
  TrainOptions train;
  if (const Node steps = node["steps"].about("Optimizer steps of the run.", "required to train"); steps.given()) train.steps = steps.size();
  if (const Node batch = node["batch"].about("Sequences of a step, over all ranks.", "required to train"); batch.given())
    train.batch = batch.size();
  train.micro_batch =
      node["micro_batch"].about("Sequences that a data rank takes at once; the rest of its share accumulates.").size(train.micro_batch);
  train.precision =
      node["precision"]
          .about("Of activations and matrix products. Master weights are fp32, under fp64 all is double.")
          .choice<Precision>({{"fp64", Precision::kFp64}, {"fp32", Precision::kFp32}, {"bf16", Precision::kBf16}}, train.precision);
  train.residual_wide =
      read_residual(node["residual"].about("Of the residual stream; bf16 only under `precision: bf16`."), train.precision);
  if (const Node clip = node["clip"].about("Largest norm of the gradient; larger ones are scaled down to it. null: any.");
      clip.is_null(false)) {
    train.clip.reset();
  } else {
    train.clip = clip.number(kPositive, train.clip);
  }
  train.recompute =
      read_recompute(node["recompute"].about("Whether backward computes the insides of sub-layers again in the place of keeping them: of "
                                             "none, of all, or of those of these kinds."));
  train.skip_spikes = read_skip_spikes(node["skip_spikes"].about(
      "Skips steps whose loss or gradient norm stands out from those before. Steps that are not finite always are."));
  train.seed = static_cast<uint64_t>(node["seed"]
                                         .about("Of initial weights and the order of the data.")
                                         .integer(0, std::numeric_limits<int64_t>::max(), static_cast<int64_t>(train.seed)));
  train.eval_every = count_or_zero(node["eval_every"].about("Steps between evaluations; 0: at the end only."), train.eval_every);
  train.health_every =
      count_or_zero(node["health_every"].about(
                        "Steps between looks at the ranges of dt, decay and state of state-space layers, for the metrics; 0: never."),
                    train.health_every);
  return train;
}

MeshOptions read_parallel(const Node& node) {
  MeshOptions mesh;
  const auto degree = [&](const char* key, const char* meaning) { return static_cast<int>(node[key].about(meaning).size(1)); };
  mesh.pipeline = degree("pipeline", "Stages that the stack is cut into.");
  if (const Node data =
          node["data"].about("Ranks with different sequences; given, it must be what the other degrees leave.", "what the ranks leave");
      !data.is_null(true))
    mesh.data = static_cast<int>(data.size());
  mesh.context = degree("context", "Ranks that a sequence is cut over.");
  mesh.tensor = degree("tensor", "Ranks that heads, hidden layers and the vocabulary are cut over.");
  mesh.sequence = node["sequence"].about("Whether tensor ranks cut the sequence between the sub-layers.").flag(mesh.sequence);
  mesh.expert = degree("expert", "Ranks that the experts of a mixture are shared out to: a divisor of data x context.");
  mesh.expert_tensor = node["expert_tensor"].about("Whether tensor ranks cut the hidden layers of experts too.").flag(mesh.expert_tensor);
  mesh.zero = static_cast<int>(
      node["zero"]
          .about("What the ranks with the same weights share out: 1 the optimizer's state, 2 gradients too, 3 weights too; 0 nothing.")
          .integer(0, 3, mesh.zero));
  mesh.context_runs = degree("context_runs", "Stretches of a sequence that a context rank holds; more of them balance causal attention.");
  mesh.virtual_stages =
      degree("virtual_stages",
             "Stages of each pipeline rank, which it takes in turns (`schedule: interleaved`); nothing to a pipeline of one rank.");
  mesh.schedule = read_schedule(
      node["schedule"].about(
          "Which microbatch a pipeline rank computes when. `zero_bubble` computes the gradients of weights where it would wait.",
          "`1f1b`; `interleaved` where there are virtual stages"),
      mesh.virtual_stages);
  mesh.stages = read_stages(node["stages"].about(
      "Sub-layers of each stage, the first ones those of the pipeline's ranks, the next ones their second stages, and so on.",
      "cut so that the stage with most FLOPs has the least"));
  return mesh;
}

CheckpointOptions read_checkpoint(const Node& node) {
  CheckpointOptions checkpoint;
  checkpoint.every = count_or_zero(node["every"].about("Steps between checkpoints; 0: none on the way."), checkpoint.every);
  checkpoint.keep = node["keep"].about("How many of the newest checkpoints stay.").size(checkpoint.keep);
  checkpoint.keep_every =
      count_or_zero(node["keep_every"].about("Checkpoints of steps divisible by this stay for good; 0: none."), checkpoint.keep_every);
  checkpoint.async = node["async"].about("Whether a thread writes them while training goes on.").flag(checkpoint.async);
  return checkpoint;
}

RunOptions read_run(const Node& node, const std::string& default_dir) {
  RunOptions run;
  run.dir = node["dir"].about("The run's folder.", "runs/<the file's stem>").text(default_dir);
  run.resume =
      node["resume"]
          .about("`auto`: from the newest checkpoint; `never`; `branch`: with changes that make it another run; or a checkpoint's folder.")
          .text(run.resume);
  run.device = read_device(node["device"].about("Where to compute: auto is a GPU where there is one, for one rank in bf16 or fp32."));
  run.timeout = node["timeout"]
                    .about("Seconds without progress after which a job ends itself, naming what it waited for.")
                    .number(kPositive, run.timeout);
  run.trace = read_trace(node["trace"].about("Steps of which a timeline is written to trace-rank*.json, for ui.perfetto.dev."));
  run.peak_flops = read_peak(node["peak_flops"].about("FLOP/s that all ranks can do in the training's precision, for mfu.", "measured"));
  return run;
}

}  // namespace ropewalk
