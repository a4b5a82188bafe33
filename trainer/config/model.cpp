// The section `model`. Each kind of block, layout and sharing are read next door.
#include "trainer/config/sections.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

BlockOptions read_mixer(const Node& block, int64_t d_model) {
  enum Mixer { kMamba1, kMamba2, kAttention };
  switch (block["mixer"].choice<Mixer>({{"mamba1", kMamba1}, {"mamba2", kMamba2}, {"attention", kAttention}})) {
    case kMamba1: return read_mamba1(block, d_model);
    case kMamba2: return read_mamba2(block);
    case kAttention: break;
  }
  return read_attention(block, d_model);
}

BlockOptions read_ffn(const Node& block) {
  if (block["ffn"].choice<bool>({{"mlp", true}, {"moe", false}})) return read_mlp(block);
  return read_moe(block);
}

std::map<std::string, BlockOptions> read_blocks(const Node& node, int64_t d_model) {
  std::map<std::string, BlockOptions> blocks;
  std::vector<Node> parallel;  // read last: their branches may come before or after them
  for (const Node& block : node.entries()) {
    if (block.key() == "none" || block.key() == "else") throw block.error("is a word of layouts; give the block another name");
    const std::string what = block.one_of({"mixer", "ffn", "parallel"});
    if (what == "parallel") {
      parallel.push_back(block);
    } else {
      blocks[block.key()] = what == "mixer" ? read_mixer(block, d_model) : read_ffn(block);
    }
  }
  for (const Node& block : parallel) blocks[block.key()] = read_parallel_block(block["parallel"], blocks);
  return blocks;
}

NormOptions read_norm(const Node& node, const NormOptions& otherwise) {
  NormOptions norm;
  norm.type = node["type"].choice<NormOptions::Type>({{"rms", NormOptions::kRms}, {"layer", NormOptions::kLayer}}, otherwise.type);
  norm.eps = node["eps"].number(kPositive, otherwise.eps);
  const bool rms = norm.type == NormOptions::kRms;
  norm.zero_centered = node["zero_centered"].flag(rms && otherwise.zero_centered);
  if (norm.zero_centered && !rms) throw node["zero_centered"].error("only an rms norm can be zero-centered");
  return norm;
}

ScaleOptions read_scales(const Node& node) {
  return {.embed = node["embed"].number(kPositive, 1),
          .residual = node["residual"].number(kPositive, 1),
          .logits = node["logits"].number(kPositive, 1)};
}

InitOptions read_init(const Node& node) {
  InitOptions init;
  init.weights =
      node["weights"].choice<InitOptions::Weights>({{"kaiming", InitOptions::kKaiming}, {"normal", InitOptions::kNormal}}, init.weights);
  init.std = node["std"].number(kPositive, init.std);
  init.embedding_std = node["embedding_std"].number(kPositive, init.embedding_std);
  init.residual = node["residual"].choice<InitOptions::Residual>({{"sqrt_depth", InitOptions::kSqrtDepth}, {"none", InitOptions::kNone}},
                                                                 init.residual);
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
  model.d_model = node["d_model"].size();
  tokenizer = read_tokenizer(node["tokenizer"]);
  model.vocabulary = tokenizer.vocabulary;
  model.tie_embeddings = node["tie_embeddings"].flag(false);
  model.norm = read_norm(node["norm"], {});
  model.final_norm = read_norm(node["final_norm"], model.norm);
  model.scales = read_scales(node["scales"]);
  model.init = read_init(node["init"]);
  model.blocks = read_blocks(node["blocks"], model.d_model);
  model.layers = read_layout(node["layout"], model.blocks);
  read_sharing(node["sharing"], model);
  return model;
}

}  // namespace ropewalk
