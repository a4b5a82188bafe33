// `model.sharing`: layers that use one set of parameters, and layers that use another layer's keys and values.
#include <limits>
#include <set>

#include "trainer/config/sections.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

class SharingReader {
 public:
  explicit SharingReader(ModelOptions& model) : model_(model) {}

  void read_block(const Node& node) {
    SharedBlockOptions share;
    share.name = node["name"].about("Of the share, in the names of its parameters.").text();
    for (const SharedBlockOptions& other : model_.shared)
      if (other.name == share.name) throw node["name"].error(fmt::format("{} is the name of another share", share.name));
    share.at = read_layers(node["at"].about("The layers with one set of parameters between them; all of the same blocks.", "required"));
    share.concat_embedding =
        node["concat_embedding"].about("Whether the mixer reads the residual stream and the embedding, side by side.").flag(false);
    if (share.concat_embedding && is_ffn(first_block(share.at[0])))
      throw node["concat_embedding"].error(fmt::format("layer {} has no mixer that could read the embedding", share.at[0]));
    model_.shared.push_back(share);
  }

  void read_kv(const Node& node) {
    const Node from = node["from"].about("The layer whose keys and values are used.");
    KvShareOptions share;
    share.from = read_layer(from);
    if (!attention(share.from))
      throw from.error(fmt::format("expected a layer with one attention block, given layer {} ({})", share.from, name(share.from)));
    const Node consumers = node["to"].about("Later layers that use them, and project none of their own.", "required");
    for (const Node& to : consumers.items()) share.to.push_back(read_consumer(to, share.from));
    if (share.to.empty()) throw consumers.expected("one or more layers");
    model_.kv.push_back(share);
    producers_.emplace_back(from, share.from);
  }

  // Known only when all shares are read: a producer may turn up as a consumer later.
  void refuse_chains() const {
    for (const auto& [node, layer] : producers_)
      if (consumers_.count(layer))
        throw node.error(fmt::format("layer {} uses another layer's keys and values: it has none to share", layer));
  }

 private:
  int read_layer(const Node& node) const {
    const int64_t layer = node.integer(0, std::numeric_limits<int32_t>::max()), count = static_cast<int64_t>(model_.layers.size());
    if (layer >= count) throw node.error(fmt::format("expected a layer from 0 to {}, given {}", count - 1, layer));
    return static_cast<int>(layer);
  }

  std::vector<int> read_layers(const Node& node) {
    std::vector<int> at;
    for (const Node& item : node.items()) {
      const int layer = read_layer(item);
      if (!shared_.insert(layer).second) throw item.error(fmt::format("layer {} is in a share already", layer));
      at.push_back(layer);
      if (blocks(layer) != blocks(at[0]))
        throw item.error(
            fmt::format("expected the same blocks as layer {} ({}), given layer {} ({})", at[0], name(at[0]), layer, name(layer)));
    }
    if (at.empty()) throw node.expected("one or more layers");
    return at;
  }

  int read_consumer(const Node& node, int from) {
    const int layer = read_layer(node);
    if (layer <= from) throw node.error(fmt::format("expected a layer after {}, given {}", from, layer));
    const AttentionBlockOptions *mine = attention(layer), *theirs = attention(from);
    if (!mine) throw node.error(fmt::format("expected a layer with one attention block, given layer {} ({})", layer, name(layer)));
    if (mine->kv_heads != theirs->kv_heads || mine->head_dim != theirs->head_dim || mine->rope != theirs->rope ||
        mine->qk_norm != theirs->qk_norm || mine->key_scale != theirs->key_scale)
      throw node.error(fmt::format("expected kv_heads, head_dim, rope, qk_norm and key_scale of layer {} ({}), which layer {} ({}) has not",
                                   from, name(from), layer, name(layer)));
    if (shared_.count(layer)) throw node.error(fmt::format("layer {} shares its parameters: it needs keys and values of its own", layer));
    if (!consumers_.insert(layer).second) throw node.error(fmt::format("layer {} uses another layer's keys and values already", layer));
    return layer;
  }

  const std::vector<std::string>& blocks(int layer) const { return model_.layers[static_cast<size_t>(layer)]; }
  std::string name(int layer) const { return join(blocks(layer), " "); }
  const BlockOptions& first_block(int layer) const { return model_.blocks.at(blocks(layer).front()); }
  // The layer's only attention; null where it has none, several, or some among parallel branches.
  const AttentionBlockOptions* attention(int layer) const {
    const AttentionBlockOptions* only = nullptr;
    for (const std::string& name : blocks(layer)) {
      const BlockOptions& block = model_.blocks.at(name);
      const auto* found = std::get_if<AttentionBlockOptions>(&block);
      if (std::holds_alternative<ParallelOptions>(block) || (found && only)) return nullptr;
      if (found) only = found;
    }
    return only;
  }

  ModelOptions& model_;
  std::set<int> shared_, consumers_;
  std::vector<std::pair<Node, int>> producers_;
};

}  // namespace

void read_sharing(const Node& node, ModelOptions& model) {
  SharingReader reader(model);
  for (const Node& share : node["blocks"].about("Layers that share their parameters.").items()) reader.read_block(share);
  for (const Node& share : node["kv"].about("Attention layers that share keys and values.").items()) reader.read_kv(share);
  reader.refuse_chains();
}

}  // namespace ropewalk
