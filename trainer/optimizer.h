// The optimizer over a rank's flat spans: each parameter group with its own values and its own schedule.
#pragma once

#include <map>

#include "kernels/flat/flat.h"
#include "parallel/parameter_store.h"
#include "trainer/options.h"

namespace ropewalk {

// The groups of a run, "default" last, and which of them a parameter falls into.
class ParameterGroups {
 public:
  // Throws ConfigError-like Error (exit code 2) where a group matches no parameter of the whole model.
  ParameterGroups(const OptimizerOptions& options, const Declarations& declarations);

  const std::vector<OptimizerGroup>& groups() const { return groups_; }
  size_t group_of(const ParameterSpec& spec) const;
  double weight_decay(const ParameterSpec& spec) const;

 private:
  std::vector<OptimizerGroup> groups_;
};

class Optimizer {
 public:
  Optimizer(const OptimizerOptions& options, const Declarations& declarations, const ParameterStore& store, int64_t steps);

  // Sums of squared gradients by kind over all ranks of the mesh, each element counted once.
  std::map<Kind, double> squared_grad_norms(const Mesh& mesh) const;
  // Updates what this rank owns with grad_scale x gradient at the LR that each group has at `step`, and gathers the rest. Collective.
  void step(int64_t step, double grad_scale);
  // What the last step did, by kind: this rank's share, in which no element counts twice over the mesh.
  const std::map<Kind, UpdateSquares>& last_update() const { return last_update_; }

  double lr(size_t group, int64_t step) const;
  const ParameterGroups& groups() const { return groups_; }
  // What a checkpoint must hold besides the weights, of what this rank owns [store.owned()], by name; and the number of updates so far.
  const std::map<std::string, Tensor>& state() const { return state_; }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  Device device() const;  // of the parameters
  // What it did is added to `squares`, where there is one.
  void update(const PlacedPart& part, double lr, double grad_scale, const Tensor& squares) const;

  OptimizerOptions options_;
  ParameterGroups groups_;
  const ParameterStore& store_;
  int64_t steps_, updates_ = 0;
  std::map<std::string, Tensor> state_;
  std::map<Kind, UpdateSquares> last_update_;
};

}  // namespace ropewalk
