// The section `model`: the templates of its blocks. Layout and sharing are read next door.
#include <algorithm>

#include "trainer/config/sections.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

constexpr int64_t kByteVocabulary = 257;  // the bytes, and the end of a document

void expect_divisor(const Node& node, int64_t given, const std::string& of, int64_t whole) {
  if (whole % given != 0) throw node.error(fmt::format("expected a divisor of {} ({}), given {}", of, whole, given));
}

Mamba2Options read_mamba2(const Node& block) {
  Mamba2Options mamba;
  mamba.heads = block["heads"].size();
  mamba.head_dim = block["head_dim"].size();
  mamba.state = block["state"].size();
  mamba.groups = block["groups"].size(1);
  mamba.conv = block["conv"].size(4);
  mamba.chunk = block["chunk"].size(128);
  expect_divisor(block["groups"], mamba.groups, "heads", mamba.heads);
  return mamba;
}

std::optional<RopeOptions> read_rope(const Node& node) {
  if (!node.is(Value::kMap)) {
    if (node.is(Value::kScalar) && node.text() != "none") throw node.expected("none or {theta: NUMBER}");
    node.choice<bool>({{"none", false}}, false);
    return {};
  }
  return RopeOptions{.theta = node["theta"].number(kPositive, RopeOptions().theta)};
}

int64_t read_head_dim(const Node& node, int64_t d_model, int64_t heads) {
  if (!node.given() && d_model % heads != 0)
    throw node.error(fmt::format("required where heads ({}) do not divide d_model ({})", heads, d_model));
  return node.size(d_model / heads);
}

AttentionBlockOptions read_attention(const Node& block, int64_t d_model) {
  AttentionBlockOptions attention;
  attention.heads = block["heads"].size();
  attention.kv_heads = block["kv_heads"].size(attention.heads);
  attention.head_dim = read_head_dim(block["head_dim"], d_model, attention.heads);
  attention.rope = read_rope(block["rope"]);
  if (const Node window = block["window"]; !window.is_null(true)) attention.window = window.size();
  expect_divisor(block["kv_heads"], attention.kv_heads, "heads", attention.heads);
  if (attention.rope && attention.head_dim % 2 != 0)
    throw block["head_dim"].error(fmt::format("expected an even number for rope, given {}", attention.head_dim));
  return attention;
}

BlockOptions read_mixer(const Node& block, int64_t d_model) {
  enum Mixer { kMamba2, kAttention };
  if (block["mixer"].choice<Mixer>({{"mamba2", kMamba2}, {"attention", kAttention}}) == kMamba2) return read_mamba2(block);
  return read_attention(block, d_model);
}

BlockOptions read_ffn(const Node& block) {
  if (!block["ffn"].choice<bool>({{"mlp", true}, {"moe", false}})) return read_moe(block);
  block["act"].choice<bool>({{"silu", true}}, true);
  block["gated"].choice<bool>({{"true", true}}, true);
  return MlpOptions{.hidden = block["hidden"].size()};
}

bool is_single_mixer(const BlockOptions& block) { return is_mixer(block) && !std::holds_alternative<ParallelOptions>(block); }

ParallelOptions read_branches(const Node& node, const std::map<std::string, BlockOptions>& blocks) {
  ParallelOptions parallel;
  for (const Node& item : node["branches"].items()) {
    const std::string name = read_block_name(item, blocks, is_single_mixer, "a block with a mixer");
    if (std::count(parallel.branches.begin(), parallel.branches.end(), name) > 0)
      throw item.error(fmt::format("{} is a branch already", name));
    parallel.branches.push_back(name);
  }
  if (parallel.branches.size() < 2) throw node["branches"].expected("two or more blocks");
  parallel.combine = node["combine"].choice<Combine>({{"sum", Combine::kSum}, {"mean", Combine::kMean}}, parallel.combine);
  return parallel;
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
  for (const Node& block : parallel) blocks[block.key()] = read_branches(block["parallel"], blocks);
  return blocks;
}

int64_t read_vocabulary(const Node& tokenizer) {
  if (tokenizer.is(Value::kMap)) return tokenizer["vocab"].size();
  tokenizer.choice<bool>({{"bytes", true}}, true);
  return kByteVocabulary;
}

}  // namespace

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

ModelOptions read_model(const Node& node) {
  ModelOptions model;
  model.d_model = node["d_model"].size();
  model.vocabulary = read_vocabulary(node["tokenizer"]);
  model.tie_embeddings = node["tie_embeddings"].flag(false);
  model.blocks = read_blocks(node["blocks"], model.d_model);
  model.layers = read_layout(node["layout"], model.blocks);
  read_sharing(node["sharing"], model);
  return model;
}

}  // namespace ropewalk
