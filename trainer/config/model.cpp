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
  mamba.heads = block["heads"].about("Heads of the scan; `heads` x `head_dim` is the inner width.").size();
  mamba.head_dim = block["head_dim"].about("Channels of a head.").size();
  mamba.state = block["state"].about("State of a channel (N).").size();
  mamba.groups = block["groups"].about("Groups of heads with one B and C each; a divisor of `heads`.").size(1);
  mamba.conv = block["conv"].about("Width of the causal convolution.").size(4);
  mamba.chunk = block["chunk"].about("Tokens that the scan takes at once; changes speed, not results.").size(128);
  expect_divisor(block["groups"], mamba.groups, "heads", mamba.heads);
  return mamba;
}

std::optional<RopeOptions> read_rope(const Node& node) {
  if (!node.is(Value::kMap)) {
    if (node.given() && !node.says("none")) throw node.expected("none or {theta: NUMBER}");
    node.choice<bool>({{"none", false}}, false);
    return {};
  }
  return RopeOptions{.theta = node["theta"].about("Base of the frequencies.").number(kPositive, RopeOptions().theta)};
}

int64_t read_head_dim(const Node& node, int64_t d_model, int64_t heads) {
  if (!node.given() && d_model % heads != 0)
    throw node.error(fmt::format("required where heads ({}) do not divide d_model ({})", heads, d_model));
  return node.size(d_model / heads);
}

AttentionBlockOptions read_attention(const Node& block, int64_t d_model) {
  AttentionBlockOptions attention;
  attention.heads = block["heads"].about("Query heads.").size();
  attention.kv_heads = block["kv_heads"].about("Key and value heads; a divisor of `heads`.", "`heads`").size(attention.heads);
  const Node head_dim = block["head_dim"].about("Channels of a head; even where there is rope.", "`d_model` / `heads`");
  attention.head_dim = read_head_dim(head_dim, d_model, attention.heads);
  attention.rope = read_rope(block["rope"].about("Rotary position embedding."));
  const Node window = block["window"].about("How many positions a query sees, its own among them; null: all before it.");
  if (!window.is_null(true)) attention.window = window.size();
  expect_divisor(block["kv_heads"], attention.kv_heads, "heads", attention.heads);
  if (attention.rope && attention.head_dim % 2 != 0)
    throw block["head_dim"].error(fmt::format("expected an even number for rope, given {}", attention.head_dim));
  return attention;
}

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

MlpOptions read_mlp(const Node& block) {
  block["act"].about("Activation.").choice<bool>({{"silu", true}}, true);
  block["gated"].about("Whether the hidden layer is act(gate) * up.").choice<bool>({{"true", true}}, true);
  return {.hidden = block["hidden"].about("Width of the hidden layer.").size()};
}

BlockOptions read_ffn(const Node& block) {
  const Node kind = block["ffn"].about("A sub-layer that works on each position by itself.");
  if (kind.choice<bool>({{"mlp", true}, {"moe", false}}))
    return read_mlp(block.as("ffn", "mlp").about("A feed-forward network of two layers."));
  return read_moe(block.as("ffn", "moe").about("A mixture of experts: each token goes through the few that a router chooses."));
}

bool is_single_mixer(const BlockOptions& block) { return is_mixer(block) && !std::holds_alternative<ParallelOptions>(block); }

ParallelOptions read_branches(const Node& node, const std::map<std::string, BlockOptions>& blocks) {
  ParallelOptions parallel;
  const Node branches = node["branches"].about("Names of the blocks, two or more, each with a mixer.", "required");
  for (const Node& item : branches.items()) {
    const std::string name = read_block_name(item, blocks, is_single_mixer, "a block with a mixer");
    if (std::count(parallel.branches.begin(), parallel.branches.end(), name) > 0)
      throw item.error(fmt::format("{} is a branch already", name));
    parallel.branches.push_back(name);
  }
  if (parallel.branches.size() < 2) throw branches.expected("two or more blocks");
  parallel.combine = node["combine"]
                         .about("What becomes of the outputs.")
                         .choice<Combine>({{"sum", Combine::kSum}, {"mean", Combine::kMean}}, parallel.combine);
  return parallel;
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
  for (const Node& block : parallel) blocks[block.key()] = read_branches(block["parallel"].about(meaning), blocks);
  return blocks;
}

int64_t read_vocabulary(const Node& tokenizer) {
  if (tokenizer.is(Value::kMap)) return tokenizer["vocab"].about("Size of the vocabulary of data that is tokenized already.").size();
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
  model.d_model = node["d_model"].about("Width of the residual stream.").size();
  model.vocabulary =
      read_vocabulary(node["tokenizer"].about("What makes tokens of text: `bytes` has the 256 bytes and the end of a document."));
  model.tie_embeddings = node["tie_embeddings"].about("Whether the output head is the embedding's matrix.").flag(false);
  model.blocks = read_blocks(node["blocks"].about("Named sub-layers, of which the layout makes the stack."), model.d_model);
  model.layers = read_layout(node["layout"].about("The order of the blocks. Layers count from 0."), model.blocks);
  read_sharing(node["sharing"].about("Layers that use parameters, or keys and values, of other layers."), model);
  return model;
}

}  // namespace ropewalk
