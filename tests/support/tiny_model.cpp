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
  return tiny({{"M", Mamba2Options{.heads = 2, .head_dim = 4, .state = 3, .groups = 1, .conv = 3, .chunk = 5}},
               {"A", AttentionBlockOptions{.heads = 2, .kv_heads = 1, .head_dim = 4, .rope = RopeOptions{}, .window = {}}},
               {"J", MoeOptions{.experts = 5,
                                .hidden = 6,
                                .router = {.type = kSoftmaxTopk, .top_k = 2},
                                .balance = 0.1,
                                .shared = SharedExpertOptions{.hidden = 7, .gated = true}}},
               {"G", MoeOptions{.experts = 4,
                                .hidden = 5,
                                .act = Activation::kRelu2,
                                .gated = false,
                                .router = {.type = kTopkSoftmax, .top_k = 3},
                                .z = 0.05,
                                .shared = SharedExpertOptions{.hidden = 4}}},
               {"D", MoeOptions{.experts = 6,
                                .hidden = 4,
                                .router = {.type = kSigmoidBias, .top_k = 2, .scale = 1.5, .groups = 3, .top_groups = 2},
                                .bias_update = 0.05,
                                .balance = 0.02,
                                .z = 0.01}},
               {"B", MoeOptions{.experts = 3, .hidden = 6, .router = {.type = kSigmoidTop1}, .router_bias = true}}},
              {{"M", "J"}, {"A", "D"}, {"M", "B"}, {"A", "G"}, {"D"}});
}

}  // namespace

const std::vector<TinyModel>& tiny_models() {
  static const std::vector<TinyModel> models = {
      {.name = "Interfaces", .model = interfaces()},
      {.name = "Experts", .model = experts(), .cut = false, .context = true},
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
