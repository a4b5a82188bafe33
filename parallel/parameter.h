// What a parameter says about itself. Gradient sums, optimizer groups, checkpoints, export and the planner all read this one declaration.
//
// A sub-layer declares while the model is built; nothing is allocated then. A fused projection is several parameters (in_proj.z .x .B .C
// .dt) stacked along dim 0 of one storage: the matrix product sees one matrix (a Leaf), everyone else sees the parts.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/autograd/tape.h"
#include "parallel/buffer.h"

namespace ropewalk {

// The owner of a parameter, and what it is to that owner: what optimizer groups match on.
enum class Kind : uint8_t { kSsm, kAttention, kMlp, kMoe, kEmbedding, kHead, kStack };
enum class Role : uint8_t { kWeight, kBias, kNorm, kALog, kDtBias, kD, kConv, kRouter, kRouterBias };
constexpr Kind kKinds[] = {Kind::kSsm, Kind::kAttention, Kind::kMlp, Kind::kMoe, Kind::kEmbedding, Kind::kHead, Kind::kStack};
constexpr Role kRoles[] = {Role::kWeight, Role::kBias, Role::kNorm,   Role::kALog,      Role::kDtBias,
                           Role::kD,      Role::kConv, Role::kRouter, Role::kRouterBias};
const char* name_of(Kind kind);  // "ssm", "attention", ...
const char* name_of(Role role);  // "weight", "A_log", ...

// The initial value of element i (of the global tensor, row-major), drawn from Philox keyed by seed and global name: the same on any mesh.
struct Init {
  enum Type : uint8_t {
    kConstant,         // a
    kUniform,          // U(a, b)
    kNormal,           // N(0, a^2)
    kLogOfUniform,     // log U(a, b): A_log
    kLogOfColumn,      // log(1 + i), i the index in the last dim: Mamba-1's A_log
    kInverseSoftplus,  // softplus^-1 of e^U(log a, log b): dt_bias
  } type = kConstant;
  double a = 0, b = 0;
};

// How a dim is cut over the tensor axis: into `blocks` equal units (heads, groups, rows) that stay whole.
//   ranks <= blocks: a rank holds ceil(blocks / ranks) consecutive blocks, the last ranks fewer or none;
//   ranks >  blocks: a block is held by ranks / blocks neighbouring ranks, and its gradient is owed over those.
// With `of` > 1 the parameter is one of so many alike (a head's), which are cut as if they stood side by side along the dim: a rank may
// hold several of them, one, a part of one, or nothing of this one.
struct Split {
  int dim = 0;
  int64_t blocks = 1;  // of one parameter
  int64_t at = 0, of = 1;

  int64_t all_blocks() const { return blocks * of; }
};
struct Range {
  int64_t begin = 0, length = 0;
};
Range local_range(int64_t extent, const std::optional<Split>& split, int rank, int ranks);
// How many neighbouring tensor ranks hold the same block: 1 unless ranks > blocks. An unsplit dim is held by all.
int replicas(const std::optional<Split>& split, int ranks);

struct ParameterSpec {
  std::string name;  // global: "layers.3.mamba2.in_proj.B"
  Shape shape;       // global
  Kind kind = Kind::kStack;
  Role role = Role::kWeight;
  Init init{};
  std::optional<Split> split{};  // over the tensor ranks
  bool by_expert = false;        // dim 0 counts experts, and is cut over the expert ranks
  // For an unsplit parameter: its copies on the tensor ranks get addends of the gradient, not equal gradients, because each sees only its
  // slice of the sequence or its heads. (The copies of a replicated block always do.)
  bool owed_over_tensor = false;
  double active = 1;  // share of it that one token uses: top_k / experts for the experts of an MoE
  int reads = 1;      // ops of one call that read it: each contributes to the gradient once
};

// Norms, biases (of a router too), A_log, D and dt_bias do not decay unless a group says so.
inline bool decays_by_default(Role role) { return role == Role::kWeight || role == Role::kConv || role == Role::kRouter; }
// These are read by ops in the wide type, whatever the precision.
inline bool kept_wide(Role role) {
  return role == Role::kNorm || role == Role::kALog || role == Role::kD || role == Role::kDtBias || role == Role::kRouter ||
         role == Role::kRouterBias;
}

// One storage: what an op gets. All parts have one role and agree in all extents but the first.
struct FusedParameter {
  std::vector<ParameterSpec> parts;
  std::shared_ptr<Leaf> leaf;  // data and grad are empty until a ParameterStore places them
  std::map<int, int> uses;     // by pipeline stage: contributions to the gradient in one microbatch
  int unit = 0;                // that declared it first

  std::vector<int> stages() const;  // that use it, ascending
};

// What is read together: by one call site, by the head.
struct Unit {
  std::vector<std::shared_ptr<Leaf>> leaves{};
  bool backward_reads = true;  // not only forward
};

// Collects the declarations of a whole model, all stages. Naming a storage again is a further use of the same parameter.
class Declarations {
 public:
  explicit Declarations(bool sequence_parallel) : sequence_parallel_(sequence_parallel) {}

  void enter_stage(int stage) { stage_ = stage; }
  // What is declared from here on belongs to a unit. Returns its number; 0 is what comes before any.
  int enter_unit(bool backward_reads = true) {
    units_.push_back({.backward_reads = backward_reads});
    return static_cast<int>(units_.size()) - 1;
  }
  Var declare(const std::string& storage, std::vector<ParameterSpec> parts);
  Var declare(const ParameterSpec& spec) { return declare(spec.name, {spec}); }
  // The same name again is the same tally or buffer.
  std::shared_ptr<Tally> declare_tally(const std::string& name, int64_t counts);
  std::shared_ptr<Buffer> declare_buffer(Buffer buffer);

  bool sequence_parallel() const { return sequence_parallel_; }
  const std::vector<std::shared_ptr<FusedParameter>>& all() const { return all_; }
  const std::vector<Unit>& units() const { return units_; }
  const Tallies& tallies() const { return tallies_; }
  const Buffers& buffers() const { return buffers_; }

 private:
  bool sequence_parallel_;
  int stage_ = 0;
  std::vector<std::shared_ptr<FusedParameter>> all_;
  std::map<std::string, std::shared_ptr<FusedParameter>> by_name_;
  std::vector<Unit> units_{1};
  Tallies tallies_;
  Buffers buffers_;
};

}  // namespace ropewalk
