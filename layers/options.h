// What a model is, as plain values. Names follow the keys of the configuration.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/rope/rope.h"
#include "kernels/router/router.h"

namespace ropewalk {

// Of the norms before each sub-layer; norms inside a mixer take its eps.
struct NormOptions {
  enum Type { kRms, kLayer } type = kRms;  // a layer norm has a bias
  double eps = 1e-5;
  bool zero_centered = false;  // RMS: y = x / rms(x) * (1 + weight), weight 0 at the start
  bool operator==(const NormOptions&) const = default;
};

// x_0 = embed * E[token];  x += residual * f(norm(x));  logits = logits * (head . x).
struct ScaleOptions {
  double embed = 1, residual = 1, logits = 1;
  bool operator==(const ScaleOptions&) const = default;
};

struct InitOptions {
  enum Weights { kKaiming, kNormal } weights = kKaiming;  // of linear layers: U(+-1 / sqrt(fan_in)), or N(0, std^2)
  double std = 0.02;                                      // of normal weights, and of a head that is not tied
  double embedding_std = 0.02;
  // What writes into the residual stream is divided by the square root of the number of sub-layers, or not.
  enum Residual { kSqrtDepth, kNone } residual = kSqrtDepth;
  bool operator==(const InitOptions&) const = default;
};

struct GateNormOptions {
  // norm(y silu(z)), norm(y) silu(z), or y silu(z).
  enum Order { kGateFirst, kNormFirst, kNone } order = kGateFirst;
  enum Group { kPerGroup, kAll } group = kPerGroup;  // of channels that share their statistics: those of a B/C group, or all
  bool operator==(const GateNormOptions&) const = default;
};

struct Mamba1Options {
  int64_t state = 16, expand = 2, conv = 4;  // inner width: expand * d_model
  int64_t dt_rank = 0, heads = 1;
  bool dtbc_norm = false;  // RMS norms of dt, B and C
  bool operator==(const Mamba1Options&) const = default;
};

struct Mamba2Options {
  int64_t heads = 0, head_dim = 0, state = 0;
  int64_t groups = 1, conv = 4, chunk = 128;
  GateNormOptions gate_norm{};
  std::optional<std::array<double, 2>> dt_limit{};     // dt = clamp(softplus(dt + dt_bias), low, high)
  std::optional<std::array<double, 5>> multipliers{};  // of in_proj's outputs z, x, B, C, dt
  bool operator==(const Mamba2Options&) const = default;
};

struct AttentionBlockOptions {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::optional<RopeOptions> rope{};
  std::optional<int64_t> window{};                          // itself and the window - 1 before
  bool qk_norm = false;                                     // RMS norm of each query and key head, before rope; zero-centred as the stack's
  enum OutputGate { kNone, kSigmoid } output_gate = kNone;  // y * sigmoid(gate) before out_proj, by channel
  struct Bias {
    bool q = false, k = false, v = false, out = false;
    bool operator==(const Bias&) const = default;
  } bias{};
  std::optional<double> scale{};  // of the scores; else 1 / sqrt(head_dim)
  double key_scale = 1;
  bool operator==(const AttentionBlockOptions&) const = default;
};

struct MlpOptions {
  int64_t hidden = 0;
  Activation act = Activation::kSilu;
  bool gated = true;  // down(act(gate) * up), else down(act(up))
  bool bias = false;
  std::optional<std::array<double, 2>> multipliers{};  // of the gate before its activation, and of down's output
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

// How parallel branches become one:
//   sum, mean     sum_i out_scale_i y_i, divided by their number for the mean
//   normed_mean   mean of rms_norm_i(y_i), each with a weight of its own
//   gated         sum_i w_i y_i with softmax weights by channel that a linear layer of the branches' input decides (kernels/gated_sum)
//   concat_proj   W [y_1; ..; y_n]
enum class Combine { kSum, kMean, kNormedMean, kGated, kConcatProj };
struct ParallelOptions {
  std::vector<std::string> branches;  // names of mixer blocks, all fed the same normed input
  Combine combine = Combine::kMean;
  std::vector<double> in_scales{}, out_scales{};  // by branch; empty: 1 each
  bool operator==(const ParallelOptions&) const = default;
};

using BlockOptions = std::variant<Mamba1Options, Mamba2Options, AttentionBlockOptions, MlpOptions, MoeOptions, ParallelOptions>;

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
  NormOptions norm, final_norm;
  ScaleOptions scales;
  InitOptions init;
  std::map<std::string, BlockOptions> blocks;
  // Layer i runs the blocks layers[i] in order, each pre-norm with a residual: one block, or a mixer and its ffn.
  std::vector<std::vector<std::string>> layers;
  std::vector<SharedBlockOptions> shared;
  std::vector<KvShareOptions> kv;
  bool operator==(const ModelOptions&) const = default;
};

}  // namespace ropewalk
