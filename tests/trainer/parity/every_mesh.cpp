#include "tests/trainer/parity/every_mesh.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

namespace ropewalk::testing {
namespace {

// Whatever a degree cuts is 24, or 1 where ranks may hold copies.
constexpr int kSize = 24, kSubLayers = 20;

const char* const kModel = R"(
model:
  d_model: 24
  tokenizer: {vocab: 29}
  tie_embeddings: true
  norm: {type: rms, eps: 1.0e-3, zero_centered: true}
  final_norm: {type: layer, eps: 1.0e-2, zero_centered: false}
  scales: {embed: 2, residual: 0.75, logits: 1.5}
  init: {weights: normal, std: 0.2, embedding_std: 0.3, residual: none}
  blocks:
    S: {mixer: mamba1, state: 3, expand: 1, conv: 4, dt_rank: 2, dtbc_norm: true}
    Z: {mixer: mamba1, state: 2, expand: 2, conv: 3, dt_rank: 1, heads: 24}
    M: {mixer: mamba2, heads: 24, head_dim: 1, state: 3, groups: 1, conv: 4, chunk: 5, dt_limit: [0.005, 0.05],
        multipliers: [0.5, 0.75, 1.25, 1.5, 2]}
    N: {mixer: mamba2, heads: 24, head_dim: 1, state: 2, groups: 24, conv: 3, chunk: 4, gate_norm: {order: norm_first, group: all}}
    O: {mixer: mamba2, heads: 24, head_dim: 1, state: 2, groups: 1, conv: 2, chunk: 8, gate_norm: {order: none}}
    A: {mixer: attention, heads: 24, kv_heads: 1, head_dim: 4, rope: {theta: 100, fraction: 0.5}, window: 7, qk_norm: true,
        output_gate: sigmoid, bias: [q, k, v, out]}
    B: {mixer: attention, heads: 24, kv_heads: 1, head_dim: 4, rope: {theta: 100, fraction: 0.5}, qk_norm: true}
    C: {mixer: attention, heads: 24, kv_heads: 24, head_dim: 1, scale: 0.5, key_scale: 0.75}
    F: {ffn: mlp, hidden: 24, bias: true, multipliers: [0.75, 1.5]}
    G: {ffn: mlp, hidden: 24, act: relu2, gated: false}
    J: {ffn: moe, experts: 24, hidden: 24, router: softmax_topk, top_k: 3, renorm: true, balance: 0.1, shared: {hidden: 24, gate: sigmoid}}
    K: {ffn: moe, experts: 24, hidden: 24, act: relu2, gated: false, router: topk_softmax, top_k: 2, z: 0.05, shared: {hidden: 24}}
    L: {ffn: moe, experts: 24, hidden: 24, router: sigmoid_bias, top_k: 4, scale: 1.5, groups: 4, top_groups: 2, bias_update: 0.05,
        balance: 0.02, z: 0.01}
    E: {ffn: moe, experts: 24, hidden: 24, router: sigmoid_top1, router_bias: true}
    P: {parallel: {branches: [C, M], combine: gated}}
    Q: {parallel: {branches: [A, S], combine: normed_mean, in_scales: [0.5, 2]}}
    R: {parallel: {branches: [C, O], combine: concat_proj}}
    T: {parallel: {branches: [C, O], combine: sum, in_scales: [0.5, 2], out_scales: [1.5, 0.25]}}
    U: {parallel: {branches: [N, C], combine: mean}}
  #                  01234567890123456789
  layout: {pattern: "SAFMJCGBZKPNLQOCERTU"}
  sharing:
    blocks: [{name: block, at: [5, 15], concat_embedding: true}]
    kv: [{from: 1, to: [7]}]
optimizer: {lr: 0.1, eps: 1.0e-3}
data: {seq_len: 24}
)";

// The options beside the degrees, each as the number of its value.
enum Option { kSchedule, kZero, kSequence, kRecompute, kRuns, kExpertTensor, kOptions };
struct OptionWords {
  const char* name;
  std::vector<const char*> values;
};
const std::array<OptionWords, kOptions> kWords = {{{"schedule", {"1f1b", "zero_bubble", "interleaved"}},
                                                   {"zero", {"0", "1", "2", "3"}},
                                                   {"sequence", {"true", "false"}},
                                                   {"recompute", {"none", "full"}},
                                                   {"context_runs", {"1", "2"}},
                                                   {"expert_tensor", {"false", "true"}}}};
using Choice = std::array<size_t, kOptions>;

// Whether the option changes anything on such a mesh.
bool matters(Option option, const Degrees& mesh) {
  switch (option) {
    case kSchedule: return mesh.pipeline > 1;
    case kZero: return mesh.data * mesh.context > 1;
    case kSequence:
    case kExpertTensor: return mesh.tensor > 1;
    case kRuns: return mesh.context > 1;
    default: return true;
  }
}

bool possible(const Choice& choice, const Degrees& mesh) {
  for (int option = 0; option < kOptions; ++option)
    if (choice[static_cast<size_t>(option)] > 0 && !matters(static_cast<Option>(option), mesh)) return false;
  if (choice[kRuns] > 0 && kSize % (2 * mesh.context) != 0) return false;
  return choice[kSchedule] != 2 || 2 * mesh.pipeline <= kSubLayers;
}

std::vector<Choice> all_choices() {
  std::vector<Choice> all = {Choice{}};
  for (size_t option = 0; option < kOptions; ++option) {
    std::vector<Choice> longer;
    for (const Choice& choice : all)
      for (size_t value = 0; value < kWords[option].values.size(); ++value) {
        longer.push_back(choice);
        longer.back()[option] = value;
      }
    all = std::move(longer);
  }
  return all;
}

// How often each pair of values of two options has met where both matter.
class Pairs {
 public:
  // The choice whose pairs have met least so far.
  Choice choose(const Degrees& mesh) {
    std::optional<Choice> best;
    double most = -1;
    for (const Choice& choice : all_choices()) {
      if (!possible(choice, mesh)) continue;
      double worth = 0;
      for (const Pair& pair : pairs_of(choice, mesh)) worth += std::pow(0.25, met_.contains(pair) ? met_.at(pair) : 0);
      if (worth <= most) continue;
      most = worth;
      best = choice;
    }
    for (const Pair& pair : pairs_of(*best, mesh)) ++met_[pair];
    return *best;
  }

  // Of those that can meet on any of these meshes.
  void expect_all(const std::vector<Degrees>& meshes) const {
    for (const Degrees& mesh : meshes)
      for (const Choice& choice : all_choices())
        if (possible(choice, mesh))
          for (const Pair& pair : pairs_of(choice, mesh)) {
            const auto [a, x, b, y] = pair;
            expect(met_.contains(pair), "parity: {} {} never meets {} {}", kWords[a].name, kWords[a].values[x], kWords[b].name,
                   kWords[b].values[y]);
          }
  }

 private:
  using Pair = std::array<size_t, 4>;  // option, value, option, value

  static std::vector<Pair> pairs_of(const Choice& choice, const Degrees& mesh) {
    std::vector<Pair> pairs;
    for (size_t a = 0; a < kOptions; ++a)
      for (size_t b = a + 1; b < kOptions; ++b)
        if (matters(static_cast<Option>(a), mesh) && matters(static_cast<Option>(b), mesh)) pairs.push_back({a, choice[a], b, choice[b]});
    return pairs;
  }

  std::map<Pair, int> met_;
};

std::vector<Degrees> meshes(int ranks) {
  std::vector<Degrees> all;
  for (int p = 1; p <= ranks; ++p)
    for (int d = 1; p * d <= ranks; ++d)
      for (int c = 1; p * d * c <= ranks; ++c)
        for (int t = 1; p * d * c * t <= ranks; ++t)
          for (int e = 1; e <= d * c; ++e)
            if (d * c % e == 0) all.push_back({.pipeline = p, .data = d, .context = c, .tensor = t, .expert = e});
  std::stable_sort(all.begin(), all.end(), [](const Degrees& a, const Degrees& b) { return a.ranks() < b.ranks(); });
  return all;
}

// The batch, the sequence, heads, groups, hidden layers, experts: whatever is cut is 24; by context first, then by tensor, the sequence.
// Written without a look at how a configuration's mesh is resolved.
bool divides(const Degrees& mesh) {
  for (const int degree : {mesh.data, mesh.context, mesh.tensor, mesh.expert})
    if (kSize % degree != 0) return false;
  return kSize / mesh.context % mesh.tensor == 0 && mesh.pipeline <= kSubLayers;
}

// Rows of a microbatch: so many that a data rank takes two, and three or four where stages shall overlap.
int micro_batch(const Degrees& mesh) {
  if (kSize % mesh.data != 0) return 1;
  const int rows = kSize / mesh.data;
  if (mesh.pipeline > 1) return rows % 4 == 0 ? rows / 4 : rows / 3;
  return rows % 2 == 0 ? rows / 2 : 1;
}

ParityCase parity_case(const std::string& model, const Degrees& mesh, const Choice& choice) {
  const auto word = [&](Option option) { return kWords[option].values[choice[option]]; };
  const std::string degrees = fmt::format("pipeline: {}, data: {}, context: {}, tensor: {}, expert: {}", mesh.pipeline, mesh.data,
                                          mesh.context, mesh.tensor, mesh.expert);
  const std::string options =
      fmt::format("schedule: {}, virtual_stages: {}, zero: {}, sequence: {}, context_runs: {}, expert_tensor: {}", word(kSchedule),
                  choice[kSchedule] == 2 ? 2 : 1, word(kZero), word(kSequence), word(kRuns), word(kExpertTensor));
  const std::string train = fmt::format("train: {{precision: fp64, clip: 0.5, batch: {}, micro_batch: {}, recompute: {}}}\n", kSize,
                                        micro_batch(mesh), word(kRecompute));
  return {.name = fmt::format("{}; {}, zero {}{}{}{}{}", mesh.describe(), word(kSchedule), word(kZero),
                              choice[kSequence] ? ", whole sequence" : "", choice[kRecompute] ? ", recompute" : "",
                              choice[kRuns] ? ", two runs" : "", choice[kExpertTensor] ? ", expert tensor" : ""),
          .config = fmt::format("{}{}parallel: {{{}, {}}}\n", model, train, degrees, options),
          .ranks = mesh.ranks()};
}

std::string with(std::string text, const std::string& what, const std::string& instead) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + instead.size()))
    text.replace(at, what.size(), instead);
  return text;
}

}  // namespace

std::vector<ParityCase> copied_groups_and_heads() {
  const Degrees mesh{.pipeline = 1, .data = 1, .context = 1, .tensor = 8, .expert = 1};
  std::vector<ParityCase> cases;
  for (const int groups : {1, 2})
    for (const int kv_heads : {1, 2}) {
      const std::string model =
          with(with(kModel, "groups: 1,", fmt::format("groups: {},", groups)), "kv_heads: 1,", fmt::format("kv_heads: {},", kv_heads));
      cases.push_back(parity_case(model, mesh, Choice{}));
      cases.back().name += fmt::format("; groups {}, kv_heads {}", groups, kv_heads);
    }
  return cases;
}

std::vector<MeshCase> every_mesh(int ranks) {
  std::vector<MeshCase> cases;
  std::vector<Degrees> fitting;
  Pairs pairs;
  for (const Degrees& mesh : meshes(ranks)) {
    const bool runs = divides(mesh);
    if (runs) fitting.push_back(mesh);
    cases.push_back({.parity = parity_case(kModel, mesh, runs ? pairs.choose(mesh) : Choice{}), .runs = runs});
  }
  pairs.expect_all(fitting);
  return cases;
}

}  // namespace ropewalk::testing
