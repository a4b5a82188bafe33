#include "trainer/config/reference.h"

#include <algorithm>

#include "trainer/config/config.h"
#include "trainer/config/words.h"
#include "trainer/config/yaml.h"

namespace ropewalk {
namespace {

// Between them the examples give every key and take every alternative.
constexpr const char* kBlocks = R"(
model:
  d_model: 64
  tokenizer: bytes
  tie_embeddings: false
  blocks:
    M: {mixer: mamba2, heads: 8, head_dim: 16, state: 16, dt_limit: [0, 1], multipliers: [1, 1, 1, 1, 1]}
    S: {mixer: mamba1, dt_rank: 4}
    A: {mixer: attention, heads: 4, kv_heads: 2, head_dim: 16, rope: {theta: 10000}, window: 8, bias: [q], scale: 1}
    B: {mixer: attention, heads: 4, rope: none}
    F: {ffn: mlp, hidden: 128, multipliers: [1, 1]}
    E: {ffn: moe, experts: 4, top_k: 2, router: sigmoid_bias, hidden: 64, shared: {hidden: 64, gate: sigmoid}}
    G: {ffn: moe, experts: 4, router: sigmoid_top1, hidden: 64}
    J: {ffn: moe, experts: 4, top_k: 2, router: softmax_topk, hidden: 64}
    H: {parallel: {branches: [A, M], combine: mean, in_scales: [1, 1], out_scales: [1, 1]}}
  sharing: {blocks: [{name: twice, at: [0, 1], concat_embedding: false}], kv: [{from: 2, to: [3]}]}
)";

constexpr const char* kLayouts[] = {
    "pattern: MMAA",
    "pattern: {symbols: {m: M, a: A}, string: mmaa}",
    "{ratio: \"1:1\", of: [M, A], layers: 4, placement: last, ffn: F}",
    "rules: {layers: 4, mixer: {A: i > 1, else: M}, ffn: {F: i > 1, else: none}}",
    "rules: {layers: 4, mixer: A, ffn: F}",
    "units: [{repeat: 2, layers: [A]}, {repeat: 2, layers: [[A, F]]}]",
};

constexpr const char* kRest = R"(
optimizer:
  type: adamw
  betas: [0.9, 0.95]
  eps: 1.0e-8
  weight_decay: 0.1
  lr: 0.001
  schedule: {type: wsd, warmup: 100, decay: 0.2, final: 0, shape: sqrt}
  groups:
    - name: dynamics
      match: {kind: ssm, role: D}
      betas: [0.9, 0.95]
      eps: 1.0e-8
      weight_decay: 0.1
      lr: 0.001
      schedule: {type: wsd, warmup: 100, decay: 0.2, final: 0, shape: sqrt}
    - {name: rest, match: {kind: [attention, mlp], role: [weight, bias]}}
data:
  source: {type: text, path: kjv.txt, documents: file}
  validation_source: {type: text, path: held_out.txt}
  seq_len: 128
train: {steps: 100, batch: 8, skip_spikes: {sigma: 6, window: 128}}
parallel: {data: 1, stages: [1]}
run: {trace: {from: 1, steps: 1}, peak_flops: 1}
)";

constexpr const char* kTokenized = R"(
model:
  d_model: 64
  tokenizer: {vocab: 100}
  blocks: {A: {mixer: attention, heads: 4}}
  layout: {pattern: A}
train: {recompute: [mamba2]}
data:
)";

constexpr const char* kSources[] = {
    "  source: {type: indexed, path: kjv}\n  validation_source: {type: indexed, path: held_out}",
    "  source: {type: mqar, vocab: 64, length: 32, pairs: 4, train: 100, test: 10}",
    "  source: {type: mqar, train: [{length: 32, pairs: 4, count: 100}], test: [{length: 32, pairs: 4, count: 10}]}",
    "  source: {type: blend, sources: [{weight: 1, validation: 0.1, source: {type: indexed, path: kjv}}]}",
};

// What the descriptions lack.
class Gaps {
 public:
  explicit Gaps(const Description& root) { visit(root, ""); }
  const std::vector<std::string>& found() const { return found_; }

 private:
  void visit(const Description& d, const std::string& path) {
    if (d.about.empty() && !path.empty() && d.key != "[]") found_.push_back(path + ": says not what it is about (Node::about)");
    if (d.forms.empty() && d.children.empty() && d.alternatives.empty() && d.same_as.empty())
      found_.push_back(path + ": given by no example");
    for (const Description& child : d.children) visit(child, dotted(path, child.key));
    for (const Description& alternative : d.alternatives) {
      visit(alternative, fmt::format("{}({}{})", path, alternative.key, alternative.value.empty() ? "" : ": " + alternative.value));
      visit_siblings(d, alternative.key, path);
    }
  }

  // Every choice of the key that tells alternatives apart must be one.
  void visit_siblings(const Description& d, const std::string& key, const std::string& path) {
    const Description* selector = d.find(key);
    if (!selector) return;
    for (const ValueForm& form : selector->forms)
      for (const std::string& name : form.names)
        if (std::none_of(d.alternatives.begin(), d.alternatives.end(),
                         [&](const Description& a) { return a.key == key && (a.value == name || a.value.empty()); }))
          found_.push_back(fmt::format("{}: taken by no example: {}: {}", path, key, name));
  }

  std::vector<std::string> found_;
};

}  // namespace

Description describe_all_keys() {
  Description all;
  for (const char* layout : kLayouts) {
    const std::string braces = layout[0] == '{' ? layout : fmt::format("{{{}}}", layout);
    describe_config(fmt::format("{}  layout: {}\n{}", kBlocks, braces, kRest), all);
  }
  for (const char* source : kSources) describe_config(fmt::format("{}{}\n", kTokenized, source), all);
  const Gaps gaps(all);
  if (!gaps.found().empty()) throw ConfigError("trainer/config/reference.cpp: " + join(gaps.found(), "\ntrainer/config/reference.cpp: "));
  return all;
}

}  // namespace ropewalk
