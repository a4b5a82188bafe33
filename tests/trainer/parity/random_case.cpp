#include "tests/trainer/parity/random_case.h"

#include <algorithm>
#include <set>

#include "kernels/tensor/philox.h"

namespace ropewalk::testing {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed, "random case") {}

  double uniform() { return random_.uniform(next_++); }
  int below(int count) { return static_cast<int>(uniform() * count); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool one_in(int count) { return below(count) == 0; }
  bool coin() { return one_in(2); }
  const char* flag() { return coin() ? "true" : "false"; }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[below(static_cast<int>(choices.size()))];
  }
  int of(const std::vector<int>& choices) { return choices[static_cast<size_t>(below(static_cast<int>(std::ssize(choices))))]; }

 private:
  Philox random_;
  uint64_t next_ = 0;
};

Degrees random_mesh(Dice& dice, int most_ranks) {
  Degrees mesh;
  int left = most_ranks;
  std::vector<int*> degrees = {&mesh.pipeline, &mesh.data, &mesh.context, &mesh.tensor};
  while (!degrees.empty()) {  // in any order: the first ones have more to choose from
    const auto next = degrees.begin() + dice.below(static_cast<int>(std::ssize(degrees)));
    **next = dice.one_in(3) ? 1 : dice.between(1, std::min(left, 4));
    left /= **next;
    degrees.erase(next);
  }
  std::vector<int> divisors;
  for (int e = 1; e <= mesh.data * mesh.context; ++e)
    if (mesh.data * mesh.context % e == 0) divisors.push_back(e);
  mesh.expert = dice.of(divisors);
  return mesh;
}

// A model for a mesh: every size that a degree cuts is a multiple of it, or of what several ranks hold copies.
class RandomModel {
 public:
  RandomModel(Dice& dice, const Degrees& mesh) : dice_(dice), mesh_(mesh), d_model_(mesh.tensor * dice.between(4 / mesh.tensor + 1, 3)) {
    const int count = dice.between(mesh.pipeline, std::max(mesh.pipeline, 6));
    for (int i = 0; i < count; ++i) add_layer();
  }

  int sub_layers() const { return static_cast<int>(std::ssize(pattern_)); }

  std::string yaml() {
    std::string text = fmt::format("model:\n  d_model: {}\n  tokenizer: {{vocab: {}}}\n  tie_embeddings: {}\n", d_model_,
                                   dice_.between(5, 20), dice_.flag());
    text +=
        fmt::format("  norm: {}\n",
                    dice_.of({"{type: rms, eps: 1.0e-3}", "{type: layer, eps: 1.0e-3}", "{type: rms, eps: 1.0e-3, zero_centered: true}"}));
    text += fmt::format("  scales: {{embed: {}, residual: {}, logits: {}}}\n", dice_.of({1.0, 2.0}), dice_.of({1.0, 0.5}),
                        dice_.of({1.0, 1.5}));
    text += "  init: {weights: normal, std: 0.2, embedding_std: 0.3, residual: none}\n  blocks:\n";
    for (const auto& [name, block] : blocks_) text += fmt::format("    {}: {}\n", name, block);
    return text + fmt::format("  layout: {{pattern: {}}}\n", pattern_) + sharing();
  }

 private:
  // A divisor of `whole` that tensor ranks can hold: so many each, or so many ranks with a copy each.
  int copies(int whole) {
    std::vector<int> fitting;
    for (int size = 1; size <= whole; ++size)
      if (whole % size == 0 && (size % mesh_.tensor == 0 || mesh_.tensor % size == 0)) fitting.push_back(size);
    return dice_.of(fitting);
  }
  int multiple(int most) { return mesh_.tensor * dice_.between(1, most); }

  std::string mamba1() {
    const int expand = dice_.between(1, 2);
    return fmt::format("{{mixer: mamba1, state: {}, expand: {}, conv: {}, dt_rank: {}, heads: {}, dtbc_norm: {}}}", dice_.between(1, 4),
                       expand, dice_.between(1, 4), dice_.between(1, 3), copies(expand * d_model_), dice_.flag());
  }

  std::string mamba2() {
    const int heads = multiple(3);
    std::string text = fmt::format("mixer: mamba2, heads: {}, head_dim: {}, state: {}, groups: {}, conv: {}, chunk: {}", heads,
                                   dice_.between(1, 4), dice_.between(1, 4), copies(heads), dice_.between(1, 4), dice_.between(1, 9));
    text += fmt::format(", gate_norm: {{order: {}, group: {}}}", dice_.of({"gate_first", "norm_first", "none"}),
                        dice_.of({"per_group", "all"}));
    if (dice_.one_in(3)) text += ", dt_limit: [0.005, 0.05]";
    if (dice_.one_in(3)) text += ", multipliers: [0.5, 0.75, 1.25, 1.5, 2]";
    return "{" + text + "}";
  }

  // What layers that share keys and values agree in.
  std::string keys() {
    const int heads = multiple(2), head_dim = 2 * dice_.between(1, 3);
    const char* const rope = dice_.of({"none", "{theta: 100}", "{theta: 1000}"});
    return fmt::format("mixer: attention, heads: {}, kv_heads: {}, head_dim: {}, rope: {}, qk_norm: {}, key_scale: {}", heads,
                       copies(heads), head_dim, rope, dice_.flag(), dice_.of({1.0, 0.75}));
  }

  std::string attention(std::string text) {
    if (dice_.coin()) text += fmt::format(", window: {}", dice_.between(1, 12));
    if (dice_.one_in(3)) text += ", output_gate: sigmoid";
    if (dice_.one_in(3)) text += fmt::format(", bias: {}", dice_.of({"[q, k, v, out]", "[v]", "[q, out]"}));
    if (dice_.one_in(4)) text += ", scale: 0.5";
    return "{" + text + "}";
  }

  const char* activation() { return dice_.of({"silu", "gelu", "gelu_tanh", "relu2"}); }

  std::string mlp() {
    const bool gated = dice_.coin();
    return fmt::format("{{ffn: mlp, hidden: {}, act: {}, gated: {}, bias: {}{}}}", multiple(4), activation(), gated, dice_.flag(),
                       gated && dice_.one_in(3) ? ", multipliers: [0.75, 1.5]" : "");
  }

  std::string moe() {
    const int experts = mesh_.expert * dice_.between(mesh_.expert == 1 ? 2 : 1, 3), k = dice_.between(1, std::min(experts, 3));
    std::string text =
        fmt::format("ffn: moe, experts: {}, hidden: {}, act: {}, gated: {}", experts, multiple(3), activation(), dice_.flag());
    switch (dice_.below(4)) {
      case 0: text += fmt::format(", router: softmax_topk, top_k: {}, renorm: {}", k, dice_.flag()); break;
      case 1: text += fmt::format(", router: topk_softmax, top_k: {}", k); break;
      case 2: text += fmt::format(", router: sigmoid_bias, top_k: {}, bias_update: 0.05, scale: 1.5", k); break;
      default: text += fmt::format(", router: sigmoid_top1, sinkhorn: {}", dice_.between(0, 8));
    }
    if (dice_.one_in(3)) text += ", router_bias: true";
    if (dice_.coin()) text += ", balance: 0.1";
    if (dice_.coin()) text += ", z: 0.05";
    if (dice_.coin()) text += fmt::format(", shared: {{hidden: {}, gate: {}}}", multiple(3), dice_.of({"none", "sigmoid"}));
    return "{" + text + "}";
  }

  std::string mixer() {
    switch (dice_.below(3)) {
      case 0: return mamba1();
      case 1: return mamba2();
      default: return attention(keys());
    }
  }

  std::string parallel() {
    const std::string first(1, define(mixer())), second(1, define(mixer()));
    return fmt::format("{{parallel: {{branches: [{}, {}], combine: {}{}}}}}", first, second,
                       dice_.of({"sum", "mean", "normed_mean", "gated", "concat_proj"}), dice_.one_in(3) ? ", in_scales: [0.5, 2]" : "");
  }

  char define(const std::string& block) {
    const char name = static_cast<char>('A' + blocks_.size());
    blocks_[name] = block;
    return name;
  }

  void add_layer() {
    if (!pattern_.empty() && dice_.one_in(4)) return repeat_layer();
    switch (dice_.below(6)) {
      case 0: pattern_ += define(mamba1()); break;
      case 1: pattern_ += define(mamba2()); break;
      case 2: add_attention(); break;
      case 3: pattern_ += define(mlp()); break;
      case 4: pattern_ += define(moe()); break;
      default: pattern_ += define(parallel());
    }
  }

  // Reads an earlier layer's keys and values, where there is one.
  void add_attention() {
    const bool reads = !keys_.empty() && dice_.coin();
    if (!reads) keys_ = keys(), producer_ = sub_layers();
    pattern_ += define(attention(keys_));
    if (reads && !shared_.contains(producer_)) readers_[producer_].push_back(sub_layers() - 1);
  }

  // Of the same block as an earlier layer; mostly with the same parameters too.
  void repeat_layer() {
    const int earlier = dice_.below(sub_layers());
    pattern_ += pattern_[static_cast<size_t>(earlier)];
    const bool taken =
        shared_.contains(earlier) || readers_.contains(earlier) ||
        std::any_of(readers_.begin(), readers_.end(), [&](const auto& r) { return std::ranges::count(r.second, earlier) > 0; });
    if (taken || dice_.one_in(4)) return;
    const bool is_ffn = blocks_[pattern_.back()].starts_with("{ffn");
    shares_.push_back(fmt::format("{{name: share{}, at: [{}, {}], concat_embedding: {}}}", shares_.size(), earlier, sub_layers() - 1,
                                  is_ffn ? "false" : dice_.flag()));
    shared_.insert({earlier, sub_layers() - 1});
  }

  std::string sharing() const {
    std::string blocks, kv;
    for (const std::string& share : shares_) blocks += fmt::format("{}{}", blocks.empty() ? "" : ", ", share);
    for (const auto& [from, to] : readers_)
      for (const int reader : to) kv += fmt::format("{}{{from: {}, to: [{}]}}", kv.empty() ? "" : ", ", from, reader);
    return fmt::format("  sharing: {{blocks: [{}], kv: [{}]}}\n", blocks, kv);
  }

  Dice& dice_;
  Degrees mesh_;
  int d_model_;
  std::map<char, std::string> blocks_;
  std::string pattern_, keys_;
  int producer_ = 0;  // the layer of keys_
  std::set<int> shared_;
  std::vector<std::string> shares_;
  std::map<int, std::vector<int>> readers_;
};

std::string random_parallel(Dice& dice, const Degrees& mesh, int runs, int sub_layers) {
  const bool interleaved = mesh.pipeline > 1 && 2 * mesh.pipeline <= sub_layers && dice.coin();
  const int chunks = interleaved ? dice.between(2, sub_layers / mesh.pipeline) : 1;
  return fmt::format(
      "parallel: {{pipeline: {}, data: {}, context: {}, tensor: {}, expert: {}, schedule: {}, virtual_stages: {}, zero: {}, sequence: {}, "
      "context_runs: {}, expert_tensor: {}}}\n",
      mesh.pipeline, mesh.data, mesh.context, mesh.tensor, mesh.expert, interleaved ? "interleaved" : dice.of({"1f1b", "zero_bubble"}),
      chunks, dice.below(4), dice.flag(), runs, dice.flag());
}

}  // namespace

ParityCase random_case(uint64_t seed, int most_ranks) {
  Dice dice(seed);
  const Degrees mesh = random_mesh(dice, most_ranks);
  RandomModel model(dice, mesh);
  const int runs = dice.between(1, 3), rows = dice.between(1, 2), seq_len = mesh.context * mesh.tensor * runs * dice.between(1, 6);
  std::string config = model.yaml();
  config += random_parallel(dice, mesh, runs, model.sub_layers());
  config += fmt::format("data: {{seq_len: {}}}\noptimizer: {{lr: 0.1, eps: 1.0e-3}}\n", seq_len);
  config += fmt::format("train: {{precision: fp64, clip: 0.5, batch: {}, micro_batch: {}, recompute: {}}}\n",
                        mesh.data * rows * dice.between(1, 5), rows, dice.of({"none", "full", "[mamba2, moe]", "[attention, parallel]"}));
  return {.name = fmt::format("seed {}: {}", seed, mesh.describe()), .config = config, .ranks = mesh.ranks(), .packing = seed};
}

}  // namespace ropewalk::testing
