// The training run: data, model, optimizer, loop, checkpoints.
#pragma once

#include "data/dataset.h"
#include "trainer/batch_loader.h"
#include "trainer/checkpoints.h"
#include "trainer/config/config.h"
#include "trainer/evaluate.h"
#include "trainer/progress.h"
#include "trainer/run_folder.h"
#include "trainer/state.h"
#include "trainer/step_metrics.h"
#include "trainer/stop_signals.h"

namespace ropewalk {

class Trainer {
 public:
  // Collective. Reads the data, builds the model and, where there is something to resume, loads it; writes nothing yet.
  Trainer(const Config& config, const Group& world, StopSignals& signals);

  // Trains to the last step, or says that this was done already. Told to stop by a signal it saves and throws an Error of that exit code.
  void run();

 private:
  void resume();
  void check_resumable(const CheckpointReader& reader, const std::string& folder) const;
  void begin();
  StepFacts timed_step(BatchLoader& loader);
  StepReport step(const std::vector<Microbatch>& batches, Health* health);
  int train_one_step(Progress& progress, BatchLoader& loader, Timeline* timeline);
  Timeline* traced();
  void write_trace();
  std::optional<Evaluation> evaluate_if_due() const;
  void train();
  int meet(const StepFacts& facts);
  void show(Progress& progress, const StepFacts& facts) const;
  CheckpointMeta meta();
  bool leader() const { return world_.rank() == 0; }
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }
  bool finished() const { return step_ == options_.train.steps; }

  Config config_;
  Options options_;
  Group world_;
  Dataset data_;
  RankModel model_;
  Optimizer optimizer_;
  TrainStep train_step_;
  RunFolder folder_;
  Checkpoints checkpoints_;
  StepMetrics metrics_;
  StopSignals& signals_;
  std::optional<Timeline> timeline_;  // while steps are traced
  int64_t step_ = 0, resumed_at_ = -1;
  int64_t skipped_in_a_row_ = 0;
};

}  // namespace ropewalk
