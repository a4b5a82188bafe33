// A model as one rank holds it: the mesh, this rank's stage, its parameters. Everything that runs a model starts from here.
#pragma once

#include "layers/model.h"
#include "parallel/parameter_gatherer.h"
#include "parallel/parameter_store.h"
#include "trainer/options.h"

namespace ropewalk {

DType compute_dtype(Precision precision);
// Where a job of so many ranks computes.
Device compute_device(const Options& options, int ranks);

class RankModel {
 public:
  // Collective over `all`, whose size is degrees.ranks().
  RankModel(const Options& options, const Group& all, const Degrees& degrees);
  RankModel(const RankModel&) = delete;
  RankModel& operator=(const RankModel&) = delete;

  const Mesh& mesh() const { return mesh_; }
  const TensorParallel& tensor_parallel() const { return tp_; }
  const Declarations& declarations() const { return declarations_; }
  const HybridModel& model() const { return model_; }
  const ParameterStore& store() const { return store_; }
  Device device() const { return device_; }
  // Whether what is counted over a rank's slice of the tokens counts here: without sequence parallelism tensor ranks have the same tokens,
  // and the first stands for all.
  bool counts_slice() const { return tp_.sequence || mesh_.coordinate(Axis::kTensor) == 0; }
  PipelineOptions pipeline_options() const {
    return {.cp = cp_, .dtype = dtype_, .device = device_, .units = gatherer_.hooks(), .schedule = schedule_, .chunks = chunks_};
  }

 private:
  Mesh mesh_;
  TensorParallel tp_;
  ContextParallel cp_;
  DType dtype_;
  Device device_;
  PipelineSchedule schedule_;
  int chunks_;
  HybridModel model_;
  Declarations declarations_;
  ParameterStore store_;
  ParameterGatherer gatherer_;
};

}  // namespace ropewalk
