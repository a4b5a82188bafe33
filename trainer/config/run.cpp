// The sections that say how to run: `train`, `parallel`, `checkpoint`, `run`.
#include <limits>

#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

int64_t count_or_zero(const Node& node, int64_t otherwise) { return node.integer(0, std::numeric_limits<int32_t>::max(), otherwise); }

bool read_residual(const Node& node, Precision precision) {
  const bool wide = node.choice<bool>({{"fp32", true}, {"bf16", false}}, true);
  if (!wide && precision != Precision::kBf16) throw node.error("bf16 needs train.precision: bf16");
  return wide;
}

void read_device(const Node& node) {
  enum Device { kAuto, kCpu, kCuda };
  const Device device = node.choice<Device>({{"auto", kAuto}, {"cpu", kCpu}, {"cuda", kCuda}}, kAuto);
  if (device == kCuda) throw node.error("this build has no CUDA back end; expected auto or cpu");
}

}  // namespace

TrainOptions read_train(const Node& node) {
  TrainOptions train;
  if (const Node steps = node["steps"]; steps.given()) train.steps = steps.size();
  if (const Node batch = node["batch"]; batch.given()) train.batch = batch.size();
  train.micro_batch = node["micro_batch"].size(train.micro_batch);
  train.precision = node["precision"].choice<Precision>(
      {{"fp64", Precision::kFp64}, {"fp32", Precision::kFp32}, {"bf16", Precision::kBf16}}, train.precision);
  train.residual_wide = read_residual(node["residual"], train.precision);
  if (const Node clip = node["clip"]; clip.is_null(false)) {
    train.clip.reset();
  } else {
    train.clip = clip.number(kPositive, train.clip);
  }
  train.recompute = node["recompute"].choice<Recompute>({{"none", Recompute::kNone}, {"full", Recompute::kFull}}, train.recompute);
  train.seed = static_cast<uint64_t>(node["seed"].integer(0, std::numeric_limits<int64_t>::max(), static_cast<int64_t>(train.seed)));
  train.eval_every = count_or_zero(node["eval_every"], train.eval_every);
  return train;
}

MeshOptions read_parallel(const Node& node) {
  MeshOptions mesh;
  const auto degree = [&](const char* key) { return static_cast<int>(node[key].size(1)); };
  mesh.pipeline = degree("pipeline");
  if (const Node data = node["data"]; !data.is_null(true)) mesh.data = static_cast<int>(data.size());
  mesh.context = degree("context");
  mesh.tensor = degree("tensor");
  mesh.sequence = node["sequence"].flag(mesh.sequence);
  mesh.context_runs = degree("context_runs");
  return mesh;
}

CheckpointOptions read_checkpoint(const Node& node) {
  CheckpointOptions checkpoint;
  checkpoint.every = count_or_zero(node["every"], checkpoint.every);
  checkpoint.keep = node["keep"].size(checkpoint.keep);
  checkpoint.keep_every = count_or_zero(node["keep_every"], checkpoint.keep_every);
  return checkpoint;
}

RunOptions read_run(const Node& node, const std::string& default_dir) {
  RunOptions run;
  run.dir = node["dir"].text(default_dir);
  run.resume = node["resume"].text(run.resume);
  read_device(node["device"]);
  run.timeout = node["timeout"].number(kPositive, run.timeout);
  return run;
}

}  // namespace ropewalk
