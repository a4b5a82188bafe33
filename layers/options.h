// What a model is, as plain values. Names follow the keys of the configuration.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/rope/rope.h"
#include "kernels/router/router.h"

namespace ropewalk {

struct Mamba2Options {
  int64_t heads = 0, head_dim = 0, state = 0;
  int64_t groups = 1, conv = 4, chunk = 128;
  bool operator==(const Mamba2Options&) const = default;
};

struct AttentionBlockOptions {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::optional<RopeOptions> rope;
  std::optional<int64_t> window;  // itself and the window - 1 before
  bool operator==(const AttentionBlockOptions&) const = default;
};

struct MlpOptions {  // gated: silu(gate) * up
  int64_t hidden = 0;
  bool operator==(const MlpOptions&) const = default;
};

struct SharedExpertOptions {
  int64_t hidden = 0;
  bool gated = false;  // each token by a sigmoid of its own
  bool operator==(const SharedExpertOptions&) const = default;
};

struct MoeOptions {
  int64_t experts = 0, hidden = 0;
  Activation act = Activation::kSilu;
  bool gated = true;     // each expert is down(act(gate) * up), else down(act(up)); the shared one likewise
  RouterOptions router;  // keys: router, top_k, renorm, scale, groups, top_groups
  bool router_bias = false;
  double bias_update = 0.001;  // sigmoid_bias: how far the bias moves a step
  int64_t sinkhorn = 8;        // sigmoid_top1: iterations
  double balance = 0, z = 0;   // coefficients of the auxiliary losses, which are means over sequences
  std::optional<SharedExpertOptions> shared{};
  bool operator==(const MoeOptions&) const = default;
};

enum class Combine { kSum, kMean };
struct ParallelOptions {
  std::vector<std::string> branches;  // names of mixer blocks, all fed the same normed input
  Combine combine = Combine::kMean;
  bool operator==(const ParallelOptions&) const = default;
};

using BlockOptions = std::variant<Mamba2Options, AttentionBlockOptions, MlpOptions, MoeOptions, ParallelOptions>;

// The layers `at` use one set of parameters. With concat_embedding their mixer reads [x; embedding], 2 d_model wide.
struct SharedBlockOptions {
  std::string name;
  std::vector<int> at;
  bool concat_embedding = false;
  bool operator==(const SharedBlockOptions&) const = default;
};
// The attention layers `to` use the keys and values of layer `from`, which comes before them, and project none of their own.
struct KvShareOptions {
  int from = 0;
  std::vector<int> to;
  bool operator==(const KvShareOptions&) const = default;
};

struct ModelOptions {
  int64_t d_model = 0;
  int64_t vocabulary = 0;
  bool tie_embeddings = false;
  std::map<std::string, BlockOptions> blocks;
  // Layer i runs the blocks layers[i] in order, each pre-norm with a residual: one block, or a mixer and its ffn.
  std::vector<std::vector<std::string>> layers;
  std::vector<SharedBlockOptions> shared;
  std::vector<KvShareOptions> kv;
  bool operator==(const ModelOptions&) const = default;
};

}  // namespace ropewalk
