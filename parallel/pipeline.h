// A schedule runs the microbatches of a step through the stages of a pipeline. All it sees of a model is its Stage.
#pragma once

#include "parallel/context.h"
#include "parallel/mesh.h"

namespace ropewalk {

// This rank's consecutive part of a model.
class Stage {
 public:
  virtual ~Stage() = default;
  // On the first stage carry.x comes as token ids [B, S]; on the last, carry.cross_entropy leaves.
  virtual Carry forward(Carry carry, const Context& ctx) const = 0;
  // reads: the slots that are live at the border before this stage; writes: those live at the border behind it.
  virtual Ports ports() const = 0;
};

struct PipelineOptions {
  ContextParallel cp;
  DType dtype = DType::kFloat32;    // of activations
  bool defer_weight_parts = false;  // weight gradients after all activation gradients
};

// The objective of a step is target x (cross-entropy of all microbatches) + sequence x (their auxiliary losses): with one over the numbers
// of targets and of sequences in the whole batch, a mean over targets and a mean over sequences, whatever the mesh and the microbatches.
struct LossScales {
  double target = 1, sequence = 1;
};

// Of all microbatches on this rank.
struct LossSums {
  double cross_entropy = 0;  // on the last stage of each pipeline; 0 elsewhere
  double auxiliary = 0;      // of this stage
};

class Pipeline {
 public:
  using Arrival = std::function<void(const Carry&, const Context&)>;

  Pipeline(const Stage& stage, const Mesh& mesh, const PipelineOptions& options) : stage_(stage), mesh_(mesh), options_(options) {}

  // All forward, then all backward: gradients of the scaled losses of all microbatches are added to the parameters.
  LossSums forward_backward(const std::vector<Microbatch>& batches, const LossScales& scales, Health* health = nullptr) const;
  // The summed cross-entropy alone. On the last stage `arrive` sees what leaves the model, a microbatch at a time.
  double forward(const std::vector<Microbatch>& batches, const Arrival& arrive = {}) const;

 private:
  struct InFlight;

  bool first() const { return mesh_.pipeline().rank() == 0; }
  bool last() const { return mesh_.pipeline().rank() + 1 == mesh_.pipeline().size(); }
  Context context(const Microbatch& batch, bool training, Health* health = nullptr) const;
  Carry receive(const Microbatch& batch, Tape* tape) const;
  void send(const Carry& carry) const;
  Carry run_forward(InFlight& flight, Health* health) const;
  void run_backward(InFlight& flight, const LossScales& scales) const;

  const Stage& stage_;
  const Mesh& mesh_;
  PipelineOptions options_;
};

}  // namespace ropewalk
