// What metrics.jsonl says of a step. Sums over the ranks travel in the step's census; the rest every rank knows.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "trainer/census.h"
#include "trainer/evaluate.h"
#include "trainer/optimizer.h"
#include "trainer/train_step.h"

namespace ropewalk {

// One step as its rank saw it.
struct StepFacts {
  int64_t step = 0;  // from 1
  int64_t tokens_a_step = 0;
  double seconds = 0;
  StepReport report;
  std::optional<Evaluation> evaluation{};
  int64_t validation_bytes = 0;
};

class StepMetrics {
 public:
  StepMetrics(const RankModel& model, const Optimizer& optimizer) : model_(model), optimizer_(optimizer) {}

  // This rank's part.
  void put(Census& census);
  // The step's object, from all ranks' parts.
  nlohmann::ordered_json object(const StepFacts& facts, const Census& census) const;

 private:
  const RankModel& model_;
  const Optimizer& optimizer_;
  size_t memory_ = 0, traffic_ = 0;                 // places in the census; of the first axis
  std::array<int64_t, kAxes.size()> bytes_sent_{};  // up to the last step
};

}  // namespace ropewalk
