// This rank's share of a model's parameters: allocated, initialised, and laid out as flat buckets, so that the gradient reducer, the
// optimizer and checkpoints see plain ranges. Master weights and gradients are wide (fp32, or fp64); what ops read in bf16 is a rounded
// copy beside the masters.
//
// ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): the ranks that hold the same parameters own a piece of each bucket. From level 1 on a
// rank keeps masters and optimizer state of what it owns alone, from level 2 on gradients too, and at level 3 what ops read: then a bucket
// lies inside a unit of the model, and a ParameterGatherer makes it whole while that runs.
#pragma once

#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace ropewalk {

// A parameter on this rank: a box of the global tensor and a stretch of a bucket.
struct PlacedPart {
  ParameterSpec spec;
  Shape start, extent;
  size_t bucket = 0;
  int64_t offset = 0;     // in the bucket
  Range owned{};          // of its elements: whole rows, which this rank updates
  int64_t owned_at = 0;   // where they begin among all that this rank owns
  int tensor_copies = 1;  // over how many neighbouring tensor ranks the gradient is owed
  bool counted = false;   // this rank stands for what it owns in norms and on disk; exactly one rank does, for each element

  int64_t numel() const { return extent.numel(); }
};

// A storage on this rank.
struct PlacedLeaf {
  std::shared_ptr<Leaf> leaf;
  size_t bucket = 0;
  int64_t offset = 0;
  Shape shape{};  // local
  int uses = 0;   // contributions to its gradient in one microbatch
  int unit = 0;   // that declared it first

  int64_t numel() const { return shape.numel(); }
  Tensor of(const Tensor& bucket) const { return bucket.narrow(0, offset, numel()).reshape(shape); }
};

// Leaves that the same ranks hold and that are read in one dtype: what is summed, cut and gathered together.
struct Bucket {
  Group replicas{};   // the ranks that hold the same, each with a gradient from its own tokens
  bool late = false;  // read on several stages, which come to it at different times
  int64_t numel = 0;
  bool sharded = false;     // the replicas own a piece each; else all own all
  bool cut_grad = false;    // of gradients too each keeps its piece alone
  bool cut_values = false;  // and of what ops read
  Cuts cuts{};              // between their pieces
  Range owned{};
  Tensor values{};  // what ops read: [numel], or [owned] where that is cut: then their leaves have it while their unit runs
  Tensor master{};  // [owned] wide; a part of `values` where ops read that
  Tensor grad{};    // wide: [numel], or [owned] where gradients are cut: then their leaves have them while backward adds to them
  std::vector<size_t> leaves{}, parts{};

  bool rounds() const { return values.dtype() != master.dtype(); }
  Tensor owned_values() const { return cut_values ? values : values.narrow(0, owned.begin, owned.length); }
};

// A buffer on this rank.
struct PlacedBuffer {
  std::shared_ptr<Buffer> buffer;
  bool counted = false;  // this rank stands for it on disk
};

struct StoreOptions {
  DType compute = DType::kFloat32;  // of activations: bf16 gets working copies
  Device device{};
  uint64_t seed = 1;
  int zero = 0;
};

class ParameterStore {
 public:
  // Collective over all ranks of the mesh.
  ParameterStore(const Declarations& declarations, const Mesh& mesh, const StoreOptions& options);

  const std::vector<PlacedPart>& parts() const { return parts_; }
  const std::vector<PlacedLeaf>& leaves() const { return leaves_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  const std::vector<PlacedBuffer>& buffers() const { return buffers_; }
  DType wide_dtype() const { return wide_; }
  Device device() const { return device_; }
  int64_t numel() const;  // elements that this rank reads
  // Elements that this rank owns: of what the optimizer keeps.
  int64_t owned() const { return owned_; }

  // Of what this rank owns of a part, flat. Gradients are whole only behind the reducer's sums.
  Tensor master(const PlacedPart& part) const;
  Tensor grad(const PlacedPart& part) const;
  Tensor working(const PlacedPart& part) const;  // what ops read; empty where that is the master
  // The part's stretch of a tensor [owned()].
  static Tensor span(const Tensor& flat, const PlacedPart& part) { return flat.narrow(0, part.owned_at, part.owned.length); }

  // After masters were changed other than by the optimizer: rounds them into what ops read.
  void round_masters() const;
  // After what ops read was changed: brings what other ranks own, where that is not cut. Collective.
  void gather() const;
  // How often that was.
  int64_t version() const { return version_; }

 private:
  struct Class;
  bool starts_bucket(const FusedParameter& fused, size_t before) const;
  void place(const FusedParameter& fused, const Mesh& mesh);
  void cut(Bucket& bucket) const;
  void allocate(Bucket& bucket, DType read);
  void own(Bucket& bucket, const Mesh& mesh);
  void initialise(const PlacedPart& part, uint64_t seed) const;

  int zero_;
  DType wide_;
  Device device_;
  std::vector<PlacedPart> parts_;
  std::vector<PlacedLeaf> leaves_;
  std::vector<Bucket> buckets_;
  std::vector<PlacedBuffer> buffers_;
  int64_t owned_ = 0;
  mutable int64_t version_ = 0;
};

}  // namespace ropewalk
