// The training run: data, model, optimizer, loop, checkpoints.
#pragma once

#include "data/dataset.h"
#include "trainer/batch_loader.h"
#include "trainer/config/config.h"
#include "trainer/evaluate.h"
#include "trainer/progress.h"
#include "trainer/run_folder.h"
#include "trainer/state.h"
#include "trainer/train_step.h"

namespace ropewalk {

class Trainer {
 public:
  // Collective. Reads the data, builds the model and, where there is something to resume, loads it; writes nothing yet.
  Trainer(const Config& config, const Group& world);

  // Trains to the last step, or says that this was done already.
  void run();

 private:
  void resume();
  void check_resumable(const CheckpointReader& reader, const std::string& folder) const;
  void begin();
  StepReport step(const std::vector<Microbatch>& batches);
  std::optional<Evaluation> evaluate_if_due() const;
  void log(const StepReport& report, double seconds, const std::optional<Evaluation>& evaluation);
  void show(Progress& progress, const StepReport& report, double seconds, const std::optional<Evaluation>& evaluation) const;
  void save();
  bool leader() const { return world_.rank() == 0; }
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }
  int64_t tokens_a_step() const { return options_.train.batch * options_.data.seq_len; }
  bool finished() const { return step_ == options_.train.steps; }

  Config config_;
  Options options_;
  Group world_;
  Dataset data_;
  RankModel model_;
  Optimizer optimizer_;
  TrainStep train_step_;
  RunFolder folder_;
  int64_t step_ = 0, saved_step_ = -1;
  int64_t skipped_in_a_row_ = 0;
  std::array<int64_t, kAxes.size()> bytes_sent_{};
};

}  // namespace ropewalk
