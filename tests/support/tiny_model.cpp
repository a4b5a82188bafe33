#include "tests/support/tiny_model.h"

#include "kernels/tensor/philox.h"

namespace ropewalk::testing {

namespace {

// d_model 8, and a vocabulary that is no multiple of any number of ranks.
ModelOptions tiny(std::map<std::string, BlockOptions> blocks, std::vector<std::vector<std::string>> layers) {
  ModelOptions model;
  model.d_model = 8;
  model.vocabulary = 13;
  model.blocks = std::move(blocks);
  model.layers = std::move(layers);
  return model;
}

ModelOptions interfaces() {
  ModelOptions model = tiny({{"M", Mamba2Options{.heads = 4, .head_dim = 4, .state = 3, .groups = 1, .conv = 4, .chunk = 5}},
                             {"N", Mamba2Options{.heads = 4, .head_dim = 2, .state = 4, .groups = 2, .conv = 3, .chunk = 4}},
                             {"A", AttentionBlockOptions{.heads = 4, .kv_heads = 2, .head_dim = 4, .rope = RopeOptions{}, .window = 7}},
                             {"G", AttentionBlockOptions{.heads = 4, .kv_heads = 4, .head_dim = 2, .rope = {}, .window = {}}},
                             {"F", MlpOptions{.hidden = 12}},
                             {"H", ParallelOptions{.branches = {"A", "N"}, .combine = Combine::kMean}}},
                            // 0    1    2      3      4      5      6      7      8
                            {{"M"}, {"A"}, {"F"}, {"G"}, {"H"}, {"A"}, {"N"}, {"G"}, {"F"}});
  model.tie_embeddings = true;
  model.shared = {{.name = "block", .at = {3, 7}, .concat_embedding = true}};
  model.kv = {{.from = 1, .to = {5}}};
  return model;
}

// Every router, with what goes with it: shared experts, a bias of the router, both losses. Steps of the balance bias are large, so that
// they change what is chosen.
ModelOptions experts() {
  using enum RouterType;
  return tiny({{"M", Mamba2Options{.heads = 4, .head_dim = 4, .state = 3, .groups = 1, .conv = 3, .chunk = 5}},
               {"A", AttentionBlockOptions{.heads = 4, .kv_heads = 1, .head_dim = 4, .rope = RopeOptions{}, .window = {}}},
               {"J", MoeOptions{.experts = 4,
                                .hidden = 8,
                                .router = {.type = kSoftmaxTopk, .top_k = 2},
                                .balance = 0.1,
                                .shared = SharedExpertOptions{.hidden = 8, .gated = true}}},
               {"G", MoeOptions{.experts = 4,
                                .hidden = 4,
                                .act = Activation::kRelu2,
                                .gated = false,
                                .router = {.type = kTopkSoftmax, .top_k = 3},
                                .z = 0.05,
                                .shared = SharedExpertOptions{.hidden = 4}}},
               {"D", MoeOptions{.experts = 8,
                                .hidden = 4,
                                .router = {.type = kSigmoidBias, .top_k = 2, .scale = 1.5, .groups = 4, .top_groups = 2},
                                .bias_update = 0.05,
                                .balance = 0.02,
                                .z = 0.01}},
               {"B", MoeOptions{.experts = 4, .hidden = 8, .router = {.type = kSigmoidTop1}, .router_bias = true}}},
              {{"M", "J"}, {"A", "D"}, {"M", "B"}, {"A", "G"}, {"D"}});
}

// Options that may stand together in one model; the next two have the others.
ModelOptions options_a() {
  Mamba2Options mamba{.heads = 4, .head_dim = 4, .state = 3, .groups = 2, .conv = 4, .chunk = 5};
  mamba.gate_norm = {.order = GateNormOptions::kNormFirst, .group = GateNormOptions::kPerGroup};
  mamba.dt_limit = {0.005, 0.05};
  mamba.multipliers = {0.5, 0.75, 1.25, 1.5, 2};
  AttentionBlockOptions attention{.heads = 4, .kv_heads = 2, .head_dim = 4, .rope = RopeOptions{.theta = 100, .fraction = 0.5}};
  attention.qk_norm = true;
  attention.output_gate = AttentionBlockOptions::kSigmoid;
  attention.bias = {.q = true, .k = true, .v = true, .out = true};
  AttentionBlockOptions reader = attention;  // of another layer's keys and values
  reader.window = 6;
  MlpOptions mlp{.hidden = 12, .act = Activation::kGelu, .bias = true};
  mlp.multipliers = {0.75, 1.5};
  ModelOptions model = tiny({{"M", mamba},
                             {"A", attention},
                             {"B", reader},
                             {"F", mlp},
                             {"G", MlpOptions{.hidden = 8, .act = Activation::kRelu2, .gated = false, .bias = true}},
                             {"H", ParallelOptions{.branches = {"A", "M"}, .combine = Combine::kGated}},
                             {"P", ParallelOptions{.branches = {"B", "M"}, .combine = Combine::kNormedMean}}},
                            // 0    1    2      3      4      5      6
                            {{"M"}, {"A"}, {"F"}, {"H"}, {"B"}, {"P"}, {"G"}});
  model.kv = {{.from = 1, .to = {4}}};
  model.norm = {.type = NormOptions::kRms, .eps = 1e-3, .zero_centered = true};
  model.final_norm = {.type = NormOptions::kLayer, .eps = 1e-2};
  model.scales = {.embed = 3, .residual = 0.5, .logits = 1.5};
  model.init = {.weights = InitOptions::kNormal, .std = 0.2, .embedding_std = 0.3, .residual = InitOptions::kNone};
  return model;
}

ModelOptions options_b() {
  Mamba2Options plain{.heads = 4, .head_dim = 2, .state = 4, .groups = 2, .conv = 3, .chunk = 4};
  plain.gate_norm.order = GateNormOptions::kNone;
  Mamba2Options all = plain;
  all.gate_norm = {.order = GateNormOptions::kGateFirst, .group = GateNormOptions::kAll};
  Mamba2Options all_first = plain;
  all_first.gate_norm = {.order = GateNormOptions::kNormFirst, .group = GateNormOptions::kAll};
  AttentionBlockOptions attention{.heads = 4, .kv_heads = 1, .head_dim = 6, .rope = {}, .window = 5};
  attention.bias = {.q = false, .k = false, .v = true, .out = false};
  attention.scale = 0.25;
  attention.key_scale = 0.75;
  ModelOptions model =
      tiny({{"M", plain},
            {"N", all},
            {"O", all_first},
            {"A", attention},
            {"F", MlpOptions{.hidden = 8, .act = Activation::kGeluTanh}},
            {"G", MlpOptions{.hidden = 12, .act = Activation::kSilu, .gated = false}},
            {"S", ParallelOptions{.branches = {"A", "M"}, .combine = Combine::kSum, .in_scales = {0.5, 2}, .out_scales = {1.5, 0.25}}},
            {"C", ParallelOptions{.branches = {"N", "A"}, .combine = Combine::kConcatProj}},
            {"T", ParallelOptions{.branches = {"O", "A", "N"}, .combine = Combine::kGated}}},
           // 0    1      2      3      4
           {{"O"}, {"S"}, {"F"}, {"C"}, {"T", "G"}});
  model.norm = {.type = NormOptions::kLayer, .eps = 1e-3};
  model.final_norm = {.type = NormOptions::kRms, .eps = 1e-3};
  model.shared = {{.name = "block", .at = {0}, .concat_embedding = true}};
  model.init.residual = InitOptions::kNone;
  return model;
}

// Mamba-1 with and without norms, with two heads (four ranks hold half a head each), beside attention, and shared by layers that read the
// embedding too.
ModelOptions selective_scans() {
  ModelOptions model = tiny({{"S", Mamba1Options{.state = 3, .expand = 2, .conv = 4, .dt_rank = 2, .dtbc_norm = true}},
                             {"Z", Mamba1Options{.state = 2, .expand = 1, .conv = 3, .dt_rank = 1, .heads = 2}},
                             {"A", AttentionBlockOptions{.heads = 4, .kv_heads = 1, .head_dim = 4, .rope = RopeOptions{}, .window = {}}},
                             {"F", MlpOptions{.hidden = 8}},
                             {"H", ParallelOptions{.branches = {"A", "Z"}, .combine = Combine::kSum}}},
                            {{"S"}, {"A", "F"}, {"Z"}, {"H"}, {"S"}, {"Z"}});
  model.shared = {{.name = "block", .at = {2, 5}, .concat_embedding = true}};
  return model;
}

}  // namespace

const std::vector<TinyModel>& tiny_models() {
  static const std::vector<TinyModel> models = {
      {.name = "Interfaces", .model = interfaces()},
      {.name = "Experts", .model = experts()},
      {.name = "OptionsA", .model = options_a()},
      {.name = "OptionsB", .model = options_b()},
      {.name = "SelectiveScans", .model = selective_scans()},
  };
  return models;
}

Options tiny_options() { return tiny_options(tiny_models().front()); }

Options tiny_options(const TinyModel& model) {
  Options options;
  options.model = model.model;
  options.optimizer.type = OptimizerOptions::kAdamW;
  options.optimizer.values.lr = 0.01;
  options.optimizer.values.eps = 1e-3;  // keeps AdamW's division away from the rounding of tiny gradients
  options.data.seq_len = 32;
  options.train.precision = Precision::kFp64;
  options.train.batch = 4;
  options.train.steps = 3;
  options.train.clip = 0.5;
  return options;
}

Sequence tiny_sequence(int64_t i, int64_t seq_len, int64_t vocabulary) {
  const Philox random(7, "tiny sequences");
  const auto draw = [&](int64_t t, int64_t below, int64_t what) {
    return static_cast<int64_t>(random.uniform(static_cast<uint64_t>((i * seq_len + t) * 4 + what)) * static_cast<double>(below));
  };
  Sequence row;
  for (int64_t t = 0; t < seq_len; ++t) {
    row.tokens.push_back(draw(t, vocabulary, 0));
    row.targets.push_back(draw(t, 10, 1) == 0 ? Sequence::kIgnored : draw(t, vocabulary, 2));
    // Rows 1 and 3 of each four are cut often, row 2 is one document over all ranks.
    const int64_t rarity = i % 4 == 2 ? 0 : i % 2 == 1 ? 4 : 11;
    if (t == 0 || (rarity > 0 && draw(t, rarity, 3) == 0)) row.document_begins.push_back(t);
  }
  return row;
}

}  // namespace ropewalk::testing
