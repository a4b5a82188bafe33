// Which sub-layers make up which stage of the pipeline: a pure function of the configuration, so that a run cuts its model alike whenever
// and wherever it starts.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/pipeline_schedule.h"
#include "trainer/options.h"

namespace ropewalk {

using StageBegins = std::vector<size_t>;  // of each stage, its first sub-layer

// Whether a stage may hold the sub-layers [begin, end): a cap on memory, say.
using StageFits = std::function<bool(int stage, size_t begin, size_t end)>;

// Of all cuts into stages of at least one sub-layer that fit: those whose largest stage is the least possible; of those, the ones with the
// least sum of squares; of those, the first in the order of their begins. Exact, by dynamic programming over what is left behind each
// stage. Nothing where no cut fits.
//
// With chunks too it is the largest stage that is made small, and not the largest rank (the sum of its chunks): no schedule takes longer
// than with all stages as slow as the slowest, which is its closed formula (pipeline_schedule.h), so this makes that bound the least. A
// rank's load is at most `chunks` times the largest stage. That the squares are few keeps the ranks even in practice.
std::optional<StageBegins> cut_stages(const std::vector<double>& loads, int stages, const StageFits& fits = {});

// FLOPs of a microbatch in each sub-layer. Those of backward are twice those of forward, half for activations and half for weights, and
// with recompute a forward more. Final norm, head and loss count with the last sub-layer, the embedding with the first: without FLOPs, it
// copies rows.
std::vector<StageTimes> sub_layer_work(const Options& options);
std::vector<StageTimes> stage_work(const std::vector<StageTimes>& sub_layers, const StageBegins& begins);

// Of a pipeline of so many ranks: as parallel.stages says, else cut by their work.
StageBegins stage_begins(const Options& options, int pipeline);

// "stages=[3,3,2] ...": the cut, each stage's and each rank's share, and the bubble that the schedule leaves.
std::string describe_pipeline(const Options& options, const Degrees& degrees);
// How the time that sub-layers were measured to take lies on the stages, and the cut that this time gives, as a line for a configuration.
std::string describe_measured_cut(const Options& options, int pipeline, const std::vector<double>& seconds);
// "[3,3,2]", as parallel.stages takes it.
std::string stages_text(const StageBegins& begins, size_t sub_layers);

}  // namespace ropewalk
