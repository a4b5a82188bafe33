// A run as plain values: the typed form of the configuration. Defaults are the contract's; trainer/config fills them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/options.h"
#include "layers/options.h"
#include "layers/recompute_policy.h"
#include "parallel/parameter.h"
#include "parallel/pipeline_schedule.h"

namespace ropewalk {

// Lengths are steps if >= 1, a share of the run if < 1.
struct ScheduleOptions {
  enum Type { kConstant, kLinear, kCosine, kWsd, kInverseSqrt } type = kConstant;
  enum Shape { kSqrtDecay, kLinearDecay, kCosineDecay } shape = kSqrtDecay;  // of WSD's decay
  double warmup = 0;
  double decay = 0.2;  // WSD: length of the last phase
  double final = 0;    // the last (inverse sqrt: the least) LR as a share of the peak
  bool operator==(const ScheduleOptions&) const = default;
};

struct OptimizerValues {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_all = false;  // weight_decay was given by the group itself: then it holds for norms and biases too
  ScheduleOptions schedule;
  bool operator==(const OptimizerValues&) const = default;
};

// First match wins. An empty list matches anything; what no group matches falls into "default".
struct OptimizerGroup {
  std::string name;
  std::vector<Kind> kinds;
  std::vector<Role> roles;
  OptimizerValues values;  // what the group does not say is the optimizer's
  bool operator==(const OptimizerGroup&) const = default;
};

struct OptimizerOptions {
  enum Type { kAdamW, kSgd } type = kAdamW;
  OptimizerValues values;
  std::vector<OptimizerGroup> groups;
  bool operator==(const OptimizerOptions&) const = default;
};

enum class Precision { kFp64, kFp32, kBf16 };
// A step stands out where its loss or gradient norm is `sigma` standard deviations above the mean of the last `window` steps.
struct SpikeOptions {
  double sigma = 6;
  int64_t window = 128;
  bool operator==(const SpikeOptions&) const = default;
};

struct TrainOptions {
  int64_t steps = 0, batch = 0, micro_batch = 1;
  Precision precision = Precision::kBf16;
  bool residual_wide = true;  // fp32 residual stream under bf16
  std::optional<double> clip = 1.0;
  RecomputePolicy recompute{};
  std::optional<SpikeOptions> skip_spikes{};
  uint64_t seed = 1;
  int64_t eval_every = 0;      // 0: at the end only
  int64_t health_every = 100;  // 0: never
  bool operator==(const TrainOptions&) const = default;
};

struct MeshOptions {
  int pipeline = 1, context = 1, tensor = 1;
  std::optional<int> data;  // what the ranks leave
  bool sequence = true;
  int context_runs = 1;
  int expert = 1;
  bool expert_tensor = false;
  int zero = 1;
  PipelineSchedule schedule = PipelineSchedule::k1F1B;
  int virtual_stages = 1;                                           // chunks of each pipeline rank
  std::vector<int> stages{};                                        // sub-layers of each; empty: cut by their cost
  int chunks() const { return pipeline > 1 ? virtual_stages : 1; }  // on a rank that is alone they would only follow each other
  bool operator==(const MeshOptions&) const = default;
};

struct CheckpointOptions {
  int64_t every = 0, keep = 3, keep_every = 0;
  bool async = true;  // written beside the training
  bool operator==(const CheckpointOptions&) const = default;
};

// Steps [from, from + steps), counted from 1, go into a trace.
struct TraceOptions {
  int64_t from = 1, steps = 1;
  bool operator==(const TraceOptions&) const = default;
};

// auto: the GPU where this program can use one for the job, else the host.
enum class DeviceChoice { kAuto, kCpu, kCuda };

struct RunOptions {
  std::string dir;
  std::string resume = "auto";  // auto | never | branch | a checkpoint folder
  DeviceChoice device = DeviceChoice::kAuto;
  double timeout = 600;
  std::optional<TraceOptions> trace{};
  std::optional<double> peak_flops{};  // FLOP/s of all ranks in the training's precision, for mfu; else it is measured
  bool operator==(const RunOptions&) const = default;
};

struct Options {
  TokenizerOptions tokenizer;
  ModelOptions model;
  OptimizerOptions optimizer;
  DataOptions data;
  TrainOptions train;
  MeshOptions parallel;
  CheckpointOptions checkpoint;
  RunOptions run;
  bool operator==(const Options&) const = default;
};

}  // namespace ropewalk
