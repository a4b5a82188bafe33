// This rank's share of a model's parameters: allocated, initialised, and laid out as flat spans, so that the gradient reducer, the
// optimizer and checkpoints see plain ranges. Master weights and gradients are wide (fp32, or fp64); in bf16 there is a rounded working
// copy beside.
#pragma once

#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

// A parameter on this rank: a box of the global tensor and a stretch of the flat spans.
struct PlacedPart {
  ParameterSpec spec;
  Shape start, extent;
  int64_t offset = 0;
  int64_t numel() const { return extent.numel(); }
  bool read_wide = false;
  int tensor_copies = 1;      // over how many neighbouring tensor ranks the gradient is owed
  std::vector<int> stages{};  // that use it, ascending
  bool counted = false;       // this rank stands for it in norms and on disk; exactly one rank does, for each element
};

// A storage on this rank.
struct PlacedLeaf {
  std::shared_ptr<Leaf> leaf;
  int64_t offset = 0;
  Shape shape{};           // local
  int uses = 0;            // contributions to its gradient in one microbatch
  bool read_wide = false;  // ops read the master itself
};

// A buffer on this rank.
struct PlacedBuffer {
  std::shared_ptr<Buffer> buffer;
  bool counted = false;  // this rank stands for it on disk
};

class ParameterStore {
 public:
  // `compute` is the dtype of activations: bf16 gets working copies.
  ParameterStore(const Declarations& declarations, const Mesh& mesh, DType compute, uint64_t seed);

  const std::vector<PlacedPart>& parts() const { return parts_; }
  const std::vector<PlacedLeaf>& leaves() const { return leaves_; }
  const std::vector<PlacedBuffer>& buffers() const { return buffers_; }
  const Tensor& master() const { return master_; }
  const Tensor& grad() const { return grad_; }
  // The part's stretch of a flat span laid out like master().
  static Tensor span(const Tensor& flat, const PlacedPart& part) { return flat.narrow(0, part.offset, part.numel()); }
  Tensor working_span(const PlacedPart& part) const;  // empty where ops read the master
  // After masters were changed other than by the optimizer: rounds them into the working copies.
  void refresh_working() const;

 private:
  void place(const FusedParameter& fused, const Mesh& mesh);
  void initialise(const PlacedPart& part, uint64_t seed) const;

  std::vector<PlacedPart> parts_;
  std::vector<PlacedLeaf> leaves_;
  std::vector<PlacedBuffer> buffers_;
  int64_t numel_ = 0;
  Tensor master_, grad_, working_;
};

}  // namespace ropewalk
