#include "parallel/parameter.h"

#include <algorithm>

namespace ropewalk {

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kSsm: return "ssm";
    case Kind::kAttention: return "attention";
    case Kind::kMlp: return "mlp";
    case Kind::kMoe: return "moe";
    case Kind::kEmbedding: return "embedding";
    case Kind::kHead: return "head";
    case Kind::kStack: return "stack";
  }
  return "?";
}

const char* name_of(Role role) {
  switch (role) {
    case Role::kWeight: return "weight";
    case Role::kBias: return "bias";
    case Role::kNorm: return "norm";
    case Role::kALog: return "A_log";
    case Role::kDtBias: return "dt_bias";
    case Role::kD: return "D";
    case Role::kConv: return "conv";
    case Role::kRouter: return "router";
    case Role::kRouterBias: return "router_bias";
  }
  return "?";
}

namespace {

// Which of so many blocks a rank holds.
Range blocks_of(int64_t blocks, int rank, int ranks) {
  if (ranks > blocks) return {rank * blocks / ranks, 1};
  const int64_t most = (blocks + ranks - 1) / ranks, begin = std::min(blocks, rank * most);
  return {begin, std::min(blocks, begin + most) - begin};
}

}  // namespace

Range local_range(int64_t extent, const std::optional<Split>& split, int rank, int ranks) {
  if (!split || ranks == 1) return {0, extent};
  const int64_t unit = extent / split->blocks, first = split->at * split->blocks;
  const Range held = blocks_of(split->all_blocks(), rank, ranks);
  const int64_t begin = std::clamp<int64_t>(held.begin - first, 0, split->blocks);
  const int64_t end = std::clamp<int64_t>(held.begin + held.length - first, begin, split->blocks);
  return {begin * unit, (end - begin) * unit};
}

int replicas(const std::optional<Split>& split, int ranks) {
  if (!split) return ranks;
  return ranks > split->all_blocks() ? ranks / static_cast<int>(split->all_blocks()) : 1;
}

std::vector<int> FusedParameter::stages() const {
  std::vector<int> stages;
  for (const auto& [stage, count] : uses) stages.push_back(stage);
  return stages;
}

Var Declarations::declare(const std::string& storage, std::vector<ParameterSpec> parts) {
  auto& known = by_name_[storage];
  if (!known) {
    known = std::make_shared<FusedParameter>();
    known->leaf = std::make_shared<Leaf>();
    known->leaf->name = storage;
    known->parts = std::move(parts);
    known->unit = static_cast<int>(units_.size()) - 1;
    all_.push_back(known);
  }
  known->uses[stage_] += known->parts.front().reads;
  units_.back().leaves.push_back(known->leaf);
  return Var(known->leaf);
}

namespace {

template <class T>
std::shared_ptr<T> named(const std::vector<std::shared_ptr<T>>& all, const std::string& name) {
  const auto known = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one->name == name; });
  return known == all.end() ? nullptr : *known;
}

}  // namespace

std::shared_ptr<Tally> Declarations::declare_tally(const std::string& name, int64_t counts) {
  if (const auto known = named(tallies_, name)) return known;
  return tallies_.emplace_back(std::make_shared<Tally>(Tally{name, Tensor::zeros({counts}, DType::kFloat64)}));
}

std::shared_ptr<Buffer> Declarations::declare_buffer(Buffer buffer) {
  if (const auto known = named(buffers_, buffer.name)) return known;
  return buffers_.emplace_back(std::make_shared<Buffer>(std::move(buffer)));
}

}  // namespace ropewalk
