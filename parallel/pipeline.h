// A schedule runs the microbatches of a step through the stages of a pipeline. All it sees of a model is its Stage.
#pragma once

#include "parallel/context.h"
#include "parallel/mesh.h"

namespace ropewalk {

// This rank's consecutive part of a model.
class Stage {
 public:
  virtual ~Stage() = default;
  // On the first stage carry.x comes as token ids [B, S]; on the last, losses.front() leaves as the summed cross-entropy in nats.
  virtual Carry forward(Carry carry, const Context& ctx) const = 0;
  // reads: the slots that are live at the border before this stage; writes: those live at the border behind it.
  virtual Ports ports() const = 0;
};

struct PipelineOptions {
  ContextParallel cp;
  DType dtype = DType::kFloat32;    // of activations
  bool defer_weight_parts = false;  // weight gradients after all activation gradients
};

class Pipeline {
 public:
  using Arrival = std::function<void(const Carry&, const Context&)>;

  Pipeline(const Stage& stage, const Mesh& mesh, const PipelineOptions& options) : stage_(stage), mesh_(mesh), options_(options) {}

  // All forward, then all backward: gradients of `scale` x (all losses of all microbatches) are added to the parameters.
  // Returns this rank's summed cross-entropy: on the last stage of each pipeline; 0 elsewhere.
  double forward_backward(const std::vector<Microbatch>& batches, double scale) const;
  // The summed cross-entropy alone. On the last stage `arrive` sees what leaves the model, a microbatch at a time.
  double forward(const std::vector<Microbatch>& batches, const Arrival& arrive = {}) const;

 private:
  struct InFlight;

  bool first() const { return mesh_.pipeline().rank() == 0; }
  bool last() const { return mesh_.pipeline().rank() + 1 == mesh_.pipeline().size(); }
  Context context(const Microbatch& batch) const;
  Carry receive(const Microbatch& batch, Tape* tape) const;
  void send(const Carry& carry) const;
  Carry run_forward(InFlight& flight) const;
  void run_backward(InFlight& flight, double scale) const;

  const Stage& stage_;
  const Mesh& mesh_;
  PipelineOptions options_;
};

}  // namespace ropewalk
