// What metrics.jsonl says of a step. Sums over the ranks travel in the step's census; the rest every rank knows.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "layers/health.h"
#include "trainer/census.h"
#include "trainer/evaluate.h"
#include "trainer/optimizer.h"
#include "trainer/train_step.h"

namespace ropewalk {

using BytesByAxis = std::array<int64_t, kAxes.size()>;
// By this rank so far.
BytesByAxis bytes_sent(const Mesh& mesh);

// One step as its rank saw it.
struct StepFacts {
  int64_t step = 0;  // from 1
  int64_t tokens_a_step = 0;
  double seconds = 0;
  StepReport report{};
  BytesByAxis bytes_sent{};  // by this rank, in training alone
  std::optional<Evaluation> evaluation{};
  std::optional<Health> health{};  // at the steps where it is asked for
};

class StepMetrics {
 public:
  // `peak_flops` of all ranks; nothing where it is not known, and then neither is mfu.
  StepMetrics(const RankModel& model, const Optimizer& optimizer, const TokenShape& batch, std::optional<double> peak_flops);

  // This rank's part.
  void put(Census& census, const StepFacts& facts);
  // The step's object, from all ranks' parts.
  nlohmann::ordered_json object(const StepFacts& facts, const Census& census) const;

 private:
  void put(Census& census, const Health& health);
  void add_update_ratios(nlohmann::ordered_json& metrics, const Census& census) const;
  void add_health(nlohmann::ordered_json& metrics, const Census& census) const;

  const Optimizer& optimizer_;
  double flops_;                                                // of a step, forward and backward
  std::optional<double> peak_flops_;                            // a second
  size_t memory_ = 0, traffic_ = 0, updates_ = 0, health_ = 0;  // places in the census; of the first axis, kind
};

}  // namespace ropewalk
