#include "trainer/rank_model.h"

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

RankModel::RankModel(const Options& options, const Group& all, const Degrees& degrees)
    : mesh_(all, degrees),
      tp_(make_tensor_parallel(mesh_.tensor(), options.parallel.sequence && degrees.tensor > 1)),
      cp_{mesh_.context(), options.parallel.context_runs, tp_.sequence ? mesh_.rows() : mesh_.context()},
      dtype_(compute_dtype(options.train.precision)),
      model_(options.model, {.tp = tp_,
                             .ep = {mesh_.expert(), options.parallel.expert_tensor},
                             .stage = mesh_.coordinate(Axis::kPipeline),
                             .stages = degrees.pipeline,
                             .recompute = options.train.recompute,
                             .residual = residual_dtype(options.train)}),
      declarations_(declare(model_, tp_)),
      store_(declarations_, mesh_, {.compute = dtype_, .seed = options.train.seed, .zero = options.parallel.zero}) {}

}  // namespace ropewalk
