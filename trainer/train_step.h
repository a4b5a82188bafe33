// One optimizer step: forward and backward over the microbatches, gradient sums, clipping, update. The training loop and the layout
// parity tests run this same code.
#pragma once

#include "parallel/grad_reducer.h"
#include "trainer/batches.h"
#include "trainer/optimizer.h"
#include "trainer/rank_model.h"
#include "trainer/spike_filter.h"

namespace ropewalk {

// Of a model with mixtures of experts.
struct MoeReport {
  double aux_loss = 0;            // what the auxiliary losses add to the objective: sum over layers of coefficient x mean over sequences
  double load_max_over_mean = 0;  // the fullest expert's share of the whole batch, in the layer where it is worst; 1 is even
};

struct StepReport {
  double loss = 0;       // mean nats per scored target over the whole batch, without auxiliary losses
  double grad_norm = 0;  // before clipping
  std::map<Kind, double> grad_norm_of;
  const char* skipped = nullptr;  // why nothing was updated: "not finite" or "spike"; the same on all ranks
  std::optional<MoeReport> moe{};
};

struct TrainStepOptions {
  std::optional<double> clip;
  std::optional<SpikeOptions> skip_spikes{};
};

class TrainStep {
 public:
  TrainStep(const RankModel& model, Optimizer& optimizer, const TrainStepOptions& options);

  // Where given, `health` collects what the layers say of themselves.
  StepReport run(int64_t step, const std::vector<Microbatch>& batches, Health* health = nullptr);
  std::optional<SpikeFilter>& spikes() { return spikes_; }

 private:
  const char* reason_to_skip(const StepReport& report);
  std::optional<MoeReport> report_experts(double auxiliary) const;

  const RankModel& model_;
  Optimizer& optimizer_;
  TrainStepOptions options_;
  std::optional<SpikeFilter> spikes_;
  GradReducer reducer_;
  Pipeline pipeline_;
};

// The sum over the ranks of the mesh of what the last stages of its pipelines counted, whatever others did; tensor ranks counted the same.
double sum_over_tokens(const Mesh& mesh, double counted, const char* label);

}  // namespace ropewalk
