#include "parallel/pipeline_schedule.h"

#include <algorithm>
#include <cassert>

namespace ropewalk {
namespace {

// Every chunk of a first group of microbatches, then of the next. Groups are as even as counts allow, and none is smaller than the ranks
// are many unless all microbatches are fewer.
Turns in_groups(Turn::Part part, const PipelineShape& shape) {
  Turns turns;
  const int groups = std::max(1, shape.microbatches / shape.ranks);
  for (int group = 0, begin = 0, end = 0; group < groups; ++group, begin = end) {
    end = begin + shape.microbatches / groups + (group < shape.microbatches % groups ? 1 : 0);
    for (int round = 0; round < shape.chunks; ++round)
      for (int microbatch = begin; microbatch < end; ++microbatch)
        turns.push_back({part, microbatch, part == Turn::kForward ? round : shape.chunks - 1 - round});
  }
  return turns;
}

// Forwards before the first backward: until the first group is in the last chunk, and then as many as keep the rank busy until a gradient
// is back from the last rank.
int forwards_ahead(const PipelineShape& shape, int rank) {
  const int behind = shape.ranks - 1 - rank;
  if (shape.chunks == 1) return std::min(shape.microbatches, behind);
  const int groups = std::max(1, shape.microbatches / shape.ranks), largest_group = (shape.microbatches + groups - 1) / groups;
  return std::min(shape.microbatches * shape.chunks, (shape.chunks - 1) * largest_group + 2 * behind);
}

// What a turn waits for, beside the turn before it on its rank.
struct Need {
  Turn::Part part;
  int stage;  // negative: none
};
Need need_of(Turn::Part part, int stage, int stages) {
  switch (part) {
    case Turn::kForward: return {Turn::kForward, stage - 1};
    case Turn::kBackward: return stage + 1 == stages ? Need{Turn::kForward, stage} : Need{Turn::kBackward, stage + 1};
    case Turn::kWeights: return {Turn::kBackward, stage};
  }
  return {part, -1};
}

bool has_weights_turns(const Turns& turns) {
  return std::any_of(turns.begin(), turns.end(), [](const Turn& turn) { return turn.part == Turn::kWeights; });
}

class Simulator {
 public:
  Simulator(const std::vector<Turns>& turns, const std::vector<StageTimes>& times)
      : turns_(turns), times_(times), splits_(has_weights_turns(turns.front())) {
    for (const Turn& turn : turns.front()) microbatches_ = std::max(microbatches_, turn.microbatch + 1);
    ends_.assign(3 * times.size() * static_cast<size_t>(microbatches_), kNever);
    result_.ranks.resize(turns.size());
  }

  std::optional<PipelineSimulation> run() {
    while (advance()) {
    }
    double work = 0;
    for (size_t rank = 0; rank < turns_.size(); ++rank) {
      if (result_.ranks[rank].size() < turns_[rank].size()) return std::nullopt;
      for (const TimedTurn& timed : result_.ranks[rank]) {
        result_.makespan = std::max(result_.makespan, timed.end);
        work += timed.end - timed.begin;
      }
    }
    result_.bubble = 1 - work / (result_.makespan * static_cast<double>(turns_.size()));
    return result_;
  }

 private:
  static constexpr double kNever = -1;

  double& end_of(Turn::Part part, int stage, int microbatch) {
    return ends_[(static_cast<size_t>(part) * times_.size() + static_cast<size_t>(stage)) * static_cast<size_t>(microbatches_) +
                 static_cast<size_t>(microbatch)];
  }

  double duration(Turn::Part part, int stage) const {
    const StageTimes& times = times_[static_cast<size_t>(stage)];
    switch (part) {
      case Turn::kForward: return times.forward;
      case Turn::kBackward: return splits_ ? times.backward : times.backward + times.weights;
      case Turn::kWeights: return times.weights;
    }
    return 0;
  }

  // Each rank goes on as far as it can. False if none could.
  bool advance() {
    bool moved = false;
    for (size_t rank = 0; rank < turns_.size(); ++rank)
      while (take_next_turn(rank)) moved = true;
    return moved;
  }

  bool take_next_turn(size_t rank) {
    std::vector<TimedTurn>& done = result_.ranks[rank];
    if (done.size() == turns_[rank].size()) return false;
    const Turn turn = turns_[rank][done.size()];
    const int stage = turn.chunk * static_cast<int>(turns_.size()) + static_cast<int>(rank);
    const Need need = need_of(turn.part, stage, static_cast<int>(times_.size()));
    const double needed = need.stage < 0 ? 0 : end_of(need.part, need.stage, turn.microbatch);
    if (needed == kNever) return false;
    const double begin = std::max(needed, done.empty() ? 0 : done.back().end);
    const double end = end_of(turn.part, stage, turn.microbatch) = begin + duration(turn.part, stage);
    done.push_back({turn, begin, end});
    return true;
  }

  const std::vector<Turns>& turns_;
  const std::vector<StageTimes>& times_;
  bool splits_;
  int microbatches_ = 0;
  std::vector<double> ends_;  // by part, stage, microbatch
  PipelineSimulation result_;
};

}  // namespace

const char* name_of(PipelineSchedule schedule) {
  switch (schedule) {
    case PipelineSchedule::k1F1B: return "1f1b";
    case PipelineSchedule::kInterleaved: return "interleaved";
    case PipelineSchedule::kZeroBubble: return "zero_bubble";
  }
  return "?";
}

Turns forward_turns(const PipelineShape& shape) { return in_groups(Turn::kForward, shape); }

Turns turns_of(PipelineSchedule schedule, const PipelineShape& shape, int rank) {
  assert(shape.chunks == 1 || schedule == PipelineSchedule::kInterleaved);
  const Turns forwards = in_groups(Turn::kForward, shape), backwards = in_groups(Turn::kBackward, shape);
  const bool splits = schedule == PipelineSchedule::kZeroBubble;
  const size_t ahead = static_cast<size_t>(forwards_ahead(shape, rank)), held_back = static_cast<size_t>(rank);
  const auto weights_of = [&](size_t i) { return Turn{Turn::kWeights, backwards[i].microbatch, backwards[i].chunk}; };
  Turns turns(forwards.begin(), forwards.begin() + static_cast<std::ptrdiff_t>(ahead));
  for (size_t i = 0; i < backwards.size(); ++i) {
    if (ahead + i < forwards.size()) turns.push_back(forwards[ahead + i]);
    turns.push_back(backwards[i]);
    if (splits && i >= held_back) turns.push_back(weights_of(i - held_back));
  }
  if (splits)
    for (size_t i = backwards.size() - std::min(backwards.size(), held_back); i < backwards.size(); ++i) turns.push_back(weights_of(i));
  return turns;
}

int most_in_flight(const Turns& turns) {
  const Turn::Part last = has_weights_turns(turns) ? Turn::kWeights : Turn::kBackward;
  int now = 0, most = 0;
  for (const Turn& turn : turns) {
    if (turn.part == Turn::kForward) most = std::max(most, ++now);
    if (turn.part == last) --now;
  }
  return most;
}

StageTimes& StageTimes::operator+=(const StageTimes& other) {
  forward += other.forward;
  backward += other.backward;
  weights += other.weights;
  return *this;
}

std::optional<PipelineSimulation> simulate(const std::vector<Turns>& turns, const std::vector<StageTimes>& times) {
  return Simulator(turns, times).run();
}

PipelineSimulation simulate(PipelineSchedule schedule, const PipelineShape& shape, const std::vector<StageTimes>& times) {
  std::vector<Turns> turns;
  for (int rank = 0; rank < shape.ranks; ++rank) turns.push_back(turns_of(schedule, shape, rank));
  return *simulate(turns, times);
}

double makespan_of_equal_stages(PipelineSchedule schedule, const PipelineShape& shape, const StageTimes& stage) {
  const int less = std::min(shape.microbatches, shape.ranks), more = std::max(shape.microbatches, shape.ranks);
  if (schedule != PipelineSchedule::kZeroBubble) return (shape.chunks * more + less - 1) * stage.total();
  const double exposed = std::max(0.0, stage.weights - std::min(stage.forward, stage.backward));  // of weights, while gradients wait
  return (shape.microbatches + shape.ranks - 1) * (stage.forward + stage.backward) + (more - shape.ranks + 1) * stage.weights +
         (less - 1) * exposed;
}

double bubble_of_equal_stages(PipelineSchedule schedule, const PipelineShape& shape, const StageTimes& stage) {
  return 1 - shape.microbatches * shape.chunks * stage.total() / makespan_of_equal_stages(schedule, shape, stage);
}

}  // namespace ropewalk
