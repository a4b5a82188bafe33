// Runs the microbatches of a step through the stages of a pipeline, in the turns of its schedule. All it sees of a model is its Stage.
//
// Messages carry no numbers. Activations go forward through one group, gradients back through another, because with several chunks, or
// between two ranks, both go from the same rank to the same rank; and each way all ranks take their turns in one order
// (pipeline_schedule.h), so that what arrives first is what is wanted first.
// Nobody waits to send, only for what its next turn needs, and meanwhile all else that is under way goes on. So a step ends if the turns
// do not wait for each other in a circle, and of every schedule simulate() says that they do not.
// A receive is posted when its turn has come: on the CPU messages move only inside calls of MPI, and an earlier one would gain nothing.
#pragma once

#include "parallel/context.h"
#include "parallel/mesh.h"
#include "parallel/pipeline_schedule.h"

namespace ropewalk {

// This rank's part of a model: a stage for each chunk.
class Stage {
 public:
  virtual ~Stage() = default;
  // On the model's first stage carry.x comes as token ids [B, S]; on its last, carry.cross_entropy leaves.
  virtual Carry forward(int chunk, Carry carry, const Context& ctx) const = 0;
  // reads: the slots that are live at the border before this stage; writes: those live at the border behind it.
  virtual Ports ports(int chunk) const = 0;
};

struct PipelineOptions {
  ContextParallel cp;
  DType dtype = DType::kFloat32;  // of activations
  Device device{};                // of the model; microbatches come from the host
  std::span<const SegmentHooks> units{};
  PipelineSchedule schedule = PipelineSchedule::k1F1B;
  int chunks = 1;  // of each rank; one where the pipeline is one rank
};

// The objective of a step is target x (cross-entropy of all microbatches) + sequence x (their auxiliary losses): with one over the numbers
// of targets and of sequences in the whole batch, a mean over targets and a mean over sequences, whatever the mesh and the microbatches.
struct LossScales {
  double target = 1, sequence = 1;
};

// Of all microbatches on this rank.
struct LossSums {
  double cross_entropy = 0;  // on the last stage of each pipeline; 0 elsewhere
  double auxiliary = 0;      // of this rank's stages
};

class Pipeline {
 public:
  using Arrival = std::function<void(const Carry&, const Context&)>;

  Pipeline(const Stage& stage, const Mesh& mesh, const PipelineOptions& options);

  // Gradients of the scaled losses of all microbatches are added to the parameters.
  LossSums forward_backward(const std::vector<Microbatch>& batches, const LossScales& scales, Health* health = nullptr) const;
  // The summed cross-entropy alone. On the last stage `arrive` sees what leaves the model, a microbatch at a time.
  double forward(const std::vector<Microbatch>& batches, const Arrival& arrive = {}) const;

 private:
  struct Flight;

  PipelineShape shape(const std::vector<Microbatch>& batches) const;
  int rank() const { return mesh_.pipeline().rank(); }
  int ranks() const { return mesh_.pipeline().size(); }
  int rank_before() const { return (rank() + ranks() - 1) % ranks(); }
  int rank_behind() const { return (rank() + 1) % ranks(); }
  bool first(int chunk) const { return rank() == 0 && chunk == 0; }
  bool last(int chunk) const { return rank() + 1 == ranks() && chunk + 1 == options_.chunks; }
  Context context(const Microbatch& batch, bool training, Health* health = nullptr) const;
  std::vector<Microbatch> on_device(const std::vector<Microbatch>& batches) const;
  Carry receive(const Microbatch& batch, int chunk, Tape* tape) const;
  void send(const Carry& carry, int chunk) const;
  void run_forward(Flight& flight, Health* health) const;
  void run_backward(Flight& flight, const LossScales& scales) const;
  static void run_weights(Flight& flight);

  const Stage& stage_;
  const Mesh& mesh_;
  PipelineOptions options_;
};

}  // namespace ropewalk
