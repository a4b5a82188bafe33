// The section `model`. Each kind of block, layout and sharing are read next door.
#include "trainer/config/sections.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

BlockOptions read_mixer(const Node& block, int64_t d_model) {
  enum Mixer { kMamba1, kMamba2, kAttention };
  const Node kind = block["mixer"].about("A sub-layer that mixes along the sequence.");
  switch (kind.choice<Mixer>({{"mamba1", kMamba1}, {"mamba2", kMamba2}, {"attention", kAttention}})) {
    case kMamba1:
      return read_mamba1(block.as("mixer", "mamba1").about("Mamba-1: a selective scan with a decay for each channel (S6)."), d_model);
    case kMamba2: return read_mamba2(block.as("mixer", "mamba2").about("Mamba-2: a scan with a decay for each head (SSD)."));
    case kAttention: break;
  }
  return read_attention(block.as("mixer", "attention").about("Causal attention with grouped queries."), d_model);
}

BlockOptions read_ffn(const Node& block) {
  const Node kind = block["ffn"].about("A sub-layer that works on each position by itself.");
  if (kind.choice<bool>({{"mlp", true}, {"moe", false}}))
    return read_mlp(block.as("ffn", "mlp").about("A feed-forward network of two layers."));
  return read_moe(block.as("ffn", "moe").about("A mixture of experts: each token goes through the few that a router chooses."));
}

std::map<std::string, BlockOptions> read_blocks(const Node& node, int64_t d_model) {
  std::map<std::string, BlockOptions> blocks;
  std::vector<Node> parallel;  // read last: their branches may come before or after them
  for (const Node& block : node.entries()) {
    if (block.key() == "none" || block.key() == "else") throw block.error("is a word of layouts; give the block another name");
    block.about("A template: each place in the layout has its own parameters, unless `sharing` joins them. The name is free.");
    const std::string what = block.one_of({"mixer", "ffn", "parallel"});
    if (what == "parallel") {
      parallel.push_back(block);
    } else {
      blocks[block.key()] = what == "mixer" ? read_mixer(block, d_model) : read_ffn(block);
    }
  }
  const char* const meaning = "Mixers side by side: all read the same normed input, their outputs are combined.";
  for (const Node& block : parallel) blocks[block.key()] = read_parallel_block(block["parallel"].about(meaning), blocks);
  return blocks;
}

// `words` say in the reference what `otherwise` is, where it is no constant.
NormOptions read_norm(const Node& node, const NormOptions& otherwise, const std::string& words = "") {
  NormOptions norm;
  norm.type = node["type"]
                  .about("`layer` subtracts the mean and has a bias.", words)
                  .choice<NormOptions::Type>({{"rms", NormOptions::kRms}, {"layer", NormOptions::kLayer}}, otherwise.type);
  norm.eps = node["eps"].about("Added to the mean square.", words).number(kPositive, otherwise.eps);
  const bool rms = norm.type == NormOptions::kRms;
  norm.zero_centered = node["zero_centered"]
                           .about("`rms`: whether the factor is 1 + weight, with weights that start at 0.", words)
                           .flag(rms && otherwise.zero_centered);
  if (norm.zero_centered && !rms) throw node["zero_centered"].error("only an rms norm can be zero-centered");
  return norm;
}

ScaleOptions read_scales(const Node& node) {
  return {.embed = node["embed"].about("Factor on the embedding.").number(kPositive, 1),
          .residual = node["residual"].about("Factor on what a sub-layer adds to the residual stream.").number(kPositive, 1),
          .logits = node["logits"].about("Factor on the logits.").number(kPositive, 1)};
}

InitOptions read_init(const Node& node) {
  InitOptions init;
  init.weights = node["weights"]
                     .about("Of linear layers: uniform in +-1 / sqrt(inputs), or normal.")
                     .choice<InitOptions::Weights>({{"kaiming", InitOptions::kKaiming}, {"normal", InitOptions::kNormal}}, init.weights);
  init.std = node["std"].about("Standard deviation of normal weights, and of a head that is not tied.").number(kPositive, init.std);
  init.embedding_std = node["embedding_std"].about("Standard deviation of the embedding.").number(kPositive, init.embedding_std);
  init.residual =
      node["residual"]
          .about("Whether what writes into the residual stream is divided by the root of the number of sub-layers.")
          .choice<InitOptions::Residual>({{"sqrt_depth", InitOptions::kSqrtDepth}, {"none", InitOptions::kNone}}, init.residual);
  return init;
}

}  // namespace

void expect_divisor(const Node& node, int64_t given, const std::string& of, int64_t whole) {
  if (whole % given != 0) throw node.error(fmt::format("expected a divisor of {} ({}), given {}", of, whole, given));
}

bool is_ffn(const BlockOptions& block) { return std::holds_alternative<MlpOptions>(block) || std::holds_alternative<MoeOptions>(block); }
bool is_mixer(const BlockOptions& block) { return !is_ffn(block); }

void expect_block(const Node& node, const std::string& name, const std::map<std::string, BlockOptions>& blocks,
                  bool (*fits)(const BlockOptions&), const std::string& what) {
  const auto block = blocks.find(name);
  if (block != blocks.end() && fits(block->second)) return;
  std::vector<std::string> names;
  for (const auto& [candidate, options] : blocks)
    if (fits(options)) names.push_back(candidate);
  const std::string known = names.empty() ? what : fmt::format("{} ({})", what, join_or(names));
  throw node.error(fmt::format("expected {}, given {}", known, shortened(name)));
}

std::string read_block_name(const Node& node, const std::map<std::string, BlockOptions>& blocks, bool (*fits)(const BlockOptions&),
                            const std::string& what) {
  std::string name = node.text();
  expect_block(node, name, blocks, fits, what);
  return name;
}

ModelOptions read_model(const Node& node, TokenizerOptions& tokenizer) {
  ModelOptions model;
  model.d_model = node["d_model"].about("Width of the residual stream.").size();
  const char* const tokens =
      "What makes tokens of text: `bytes` (the 256 bytes and the end of a document), or a SentencePiece model, FILE.model.";
  tokenizer = read_tokenizer(node["tokenizer"].about(tokens));
  model.vocabulary = tokenizer.vocabulary;
  model.tie_embeddings = node["tie_embeddings"].about("Whether the output head is the embedding's matrix.").flag(false);
  model.norm = read_norm(node["norm"].about("The norm before each sub-layer. Norms inside a mixer have its `eps`."), {});
  const char* const last = "The norm before the output head; what it does not say is as in `norm`.";
  model.final_norm = read_norm(node["final_norm"].about(last, "as `norm`"), model.norm, "as in `norm`");
  model.scales = read_scales(node["scales"].about("Constant factors of the stack."));
  model.init = read_init(node["init"].about("The initial weights."));
  model.blocks = read_blocks(node["blocks"].about("Named sub-layers, of which the layout makes the stack."), model.d_model);
  model.layers = read_layout(node["layout"].about("The order of the blocks. Layers count from 0."), model.blocks);
  read_sharing(node["sharing"].about("Layers that use parameters, or keys and values, of other layers."), model);
  return model;
}

}  // namespace ropewalk
