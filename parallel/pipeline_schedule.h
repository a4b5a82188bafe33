// Which microbatch a pipeline rank computes when. Pure functions of sizes: every rank knows the turns of all.
//
// A model of ranks x chunks stages lies on its ranks in rounds: chunk c of rank r is stage c * ranks + r. A rank takes turns, each a part
// of the work on one microbatch in one of its chunks. On all ranks the forwards of all chunks are in one order, and so are the backwards:
// what a rank sends one way is what its neighbour takes next from there.
//   1f1b          Fill with forwards, then one forward, one backward. Narayanan et al. 2021 (PipeDream-Flush), arXiv 2006.09503.
//   interleaved   The same over chunks: microbatches go in groups, each through all chunks of a rank before the next. A group is of
//                 `ranks` microbatches and more, so that a first chunk's output is back from all other ranks in time; the left-over ones
//                 are spread over the groups. Narayanan et al. 2021, arXiv 2104.04473.
//   zero_bubble   1f1b with backward split: gradients of activations as early as possible, those of weights later, in the place of
//                 waiting. Rank r holds back r of them, so that no rank has more in flight than the first has in 1f1b. Qi et al. 2023
//                 (ZB-H1), arXiv 2401.10241.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace ropewalk {

enum class PipelineSchedule : uint8_t { k1F1B, kInterleaved, kZeroBubble };
const char* name_of(PipelineSchedule schedule);  // "1f1b", ...

struct PipelineShape {
  int ranks = 1, chunks = 1;  // chunks: of each rank; more than one with kInterleaved only
  int microbatches = 1;
  int stages() const { return ranks * chunks; }
};

struct Turn {
  // Under zero_bubble a backward leaves the gradients of weights to the turn kWeights; else there is no such turn.
  enum Part : uint8_t { kForward, kBackward, kWeights } part;
  int microbatch, chunk;
  bool operator==(const Turn&) const = default;
};
using Turns = std::vector<Turn>;  // of one rank, in their order

Turns turns_of(PipelineSchedule schedule, const PipelineShape& shape, int rank);
Turns forward_turns(const PipelineShape& shape);  // where there is no backward
// Pairs of microbatch and chunk whose forward has begun and whose last turn has not ended: at most at a time.
int most_in_flight(const Turns& turns);

// Of one microbatch in one stage, in any unit.
struct StageTimes {
  double forward = 0;
  double backward = 0;  // of activations
  double weights = 0;
  double total() const { return forward + backward + weights; }
  StageTimes& operator+=(const StageTimes& other);
};

struct TimedTurn {
  Turn turn;
  double begin, end;
};
struct PipelineSimulation {
  std::vector<std::vector<TimedTurn>> ranks;
  double makespan = 0;
  double bubble = 0;  // share of ranks x makespan that nobody computes in
};
// When each turn begins and ends, if what is sent is there at once. Nothing where turns wait for each other in a circle.
// turns: of each rank; times: of each stage.
std::optional<PipelineSimulation> simulate(const std::vector<Turns>& turns, const std::vector<StageTimes>& times);
PipelineSimulation simulate(PipelineSchedule schedule, const PipelineShape& shape, const std::vector<StageTimes>& times);

// What simulate() says where all stages take the same times, in closed form. With f, b, w the times of a stage, P ranks, C chunks, M
// microbatches, and < and > the smaller and the larger of M and P:
//   1f1b, interleaved   (C > + < - 1) (f + b + w)
//   zero_bubble         (M + P - 1) (f + b) + (> - P + 1) w + (< - 1) max(0, w - min(f, b))
// The bubble is what this leaves beside the M C (f + b + w) of work: with M >= P, P - 1 turns of all three; under zero_bubble, where w is
// the least, (P - 1) (f + b - w).
double makespan_of_equal_stages(PipelineSchedule schedule, const PipelineShape& shape, const StageTimes& stage);
double bubble_of_equal_stages(PipelineSchedule schedule, const PipelineShape& shape, const StageTimes& stage);  // as a share

}  // namespace ropewalk
