#include "trainer/rank_model.h"

#include "kernels/tensor/memory.h"
#include "trainer/stage_cut.h"

namespace ropewalk {
namespace {

DType residual_dtype(const TrainOptions& train) {
  const DType compute = compute_dtype(train.precision);
  return train.residual_wide ? wide(compute) : compute;
}

Declarations declare(HybridModel& model, const TensorParallel& tp) {
  Declarations declarations(tp.sequence);
  model.declare(declarations);
  return declarations;
}

}  // namespace

DType compute_dtype(Precision precision) {
  switch (precision) {
    case Precision::kFp64: return DType::kFloat64;
    case Precision::kFp32: return DType::kFloat32;
    case Precision::kBf16: return DType::kBFloat16;
  }
  return DType::kFloat32;
}

Device compute_device(const Options& options, int ranks) {
  const bool asked = options.run.device == DeviceChoice::kCuda, narrow = options.train.precision != Precision::kFp64;
  if (asked && !narrow) throw Error(2, "run.device: cuda computes in bf16 or fp32, given train.precision fp64; use cpu");
  if (asked && ranks > 1) throw Error(2, fmt::format("run.device: cuda takes one rank so far, given {}; use cpu", ranks));
  const bool can = narrow && ranks == 1 && available(Cuda{});
  return can && options.run.device != DeviceChoice::kCpu ? Device(Cuda{}) : Device();
}

RankModel::RankModel(const Options& options, const Group& all, const Degrees& degrees)
    : mesh_(all, degrees),
      tp_(make_tensor_parallel(mesh_.tensor(), options.parallel.sequence && degrees.tensor > 1)),
      cp_{mesh_.context(), options.parallel.context_runs, tp_.sequence ? mesh_.rows() : mesh_.context()},
      dtype_(compute_dtype(options.train.precision)),
      device_(compute_device(options, all.size())),
      schedule_(options.parallel.schedule),
      chunks_(options.parallel.chunks()),
      model_(options.model, {.tp = tp_,
                             .ep = {mesh_.expert(), options.parallel.expert_tensor},
                             .pipeline_rank = mesh_.coordinate(Axis::kPipeline),
                             .pipeline_ranks = degrees.pipeline,
                             .stage_begins = stage_begins(options, degrees.pipeline),
                             .recompute = options.train.recompute,
                             .residual = residual_dtype(options.train)}),
      declarations_(declare(model_, tp_)),
      store_(declarations_, mesh_, {.compute = dtype_, .device = device_, .seed = options.train.seed, .zero = options.parallel.zero}),
      gatherer_(store_, declarations_) {}

}  // namespace ropewalk
