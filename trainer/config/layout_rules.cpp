// The layouts for stacks that no ratio describes: `rules` over the layer's number, and `units` that repeat.
#include <algorithm>

#include "trainer/config/expression.h"
#include "trainer/config/layout.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

const char* const kNone = "none";

void expect_block_or_none(const Node& node, const std::string& name, const Blocks& blocks, bool (*fits)(const BlockOptions&),
                          const std::string& what) {
  if (name != kNone) expect_block(node, name, blocks, fits, "none or a block" + what);
}

std::string read_block_or_none(const Node& node, const Blocks& blocks, bool (*fits)(const BlockOptions&), const std::string& what) {
  std::string name = node.text();
  expect_block_or_none(node, name, blocks, fits, what);
  return name;
}

// Which block a layer gets: the first whose condition holds, or else the one that `else` names.
class Rules {
 public:
  Rules(const Node& node, const Blocks& blocks, bool (*fits)(const BlockOptions&), const char* what) : node_(node) {
    if (!node.is(Value::kMap)) {
      otherwise_ = read_block_or_none(node, blocks, fits, what);
      return;
    }
    for (const Node& rule : node.entries()) {
      rule.about(
          "A block's name: the condition under which a layer has it; the first that holds decides. `else`: the name of the block of all "
          "others.");
      if (rule.key() == "else") {
        otherwise_ = read_block_or_none(rule, blocks, fits, what);
      } else {
        expect_block_or_none(rule, rule.key(), blocks, fits, what);
        rules_.push_back({rule, parse(rule)});
      }
    }
  }

  std::string block(int64_t layer) const {
    for (const Rule& rule : rules_)
      if (holds(rule, layer)) return rule.node.key();
    if (otherwise_.empty()) throw node_.error(fmt::format("layer {} fits no rule; say what it is by else", layer));
    return otherwise_;
  }

 private:
  struct Rule {
    Node node;
    Condition condition;
  };

  static Condition parse(const Node& rule) {
    const std::string text = rule.text();
    try {
      return Condition(text);
    } catch (const ExpressionError& e) {
      throw rule.error(fmt::format("{} of \"{}\"", e.what(), shortened(text)));
    }
  }

  static bool holds(const Rule& rule, int64_t layer) {
    try {
      return rule.condition.holds(layer);
    } catch (const ExpressionError& e) {
      throw rule.node.error(fmt::format("{}, where i is {}", e.what(), layer));
    }
  }

  Node node_;
  std::vector<Rule> rules_;
  std::string otherwise_;
};

// Puts a layer of these blocks behind the others, `none` left out.
void add_layer(const Node& node, const std::vector<std::string>& blocks, Layers& layers) {
  std::vector<std::string> layer;
  std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(layer), [](const std::string& block) { return block != kNone; });
  if (layer.empty()) throw node.error(fmt::format("layer {} has no block", layers.size()));
  layers.push_back(layer);
}

Layers read_unit(const Node& unit, const Blocks& blocks) {
  Layers layers;
  const Node spelled = unit["layers"].about("The layers: of each the name of its block, or a list of names.", "required");
  for (const Node& item : spelled.items()) {
    std::vector<std::string> layer;
    for (const Node& block : item.item_or_items()) layer.push_back(read_block_or_none(block, blocks, is_any, ""));
    add_layer(item, layer, layers);
  }
  if (layers.empty()) throw spelled.expected("one or more layers");
  return layers;
}

}  // namespace

Layers read_rules(const Node& node, const Blocks& blocks) {
  const int64_t count = node["layers"].about("How many layers.").integer(1, kMostLayers);
  const Node mixer = node["mixer"].about("The mixers: a block's name, or rules. `none`: no block.");
  const Rules mixers(mixer, blocks, is_mixer, " with a mixer");
  std::optional<Rules> ffns;
  if (const Node ffn = node["ffn"].about("What follows the mixers: a block's name, or rules. `none`: no block.", "no ffn"); ffn.given())
    ffns.emplace(ffn, blocks, is_ffn, " with an ffn");
  Layers layers;
  for (int64_t layer = 0; layer < count; ++layer) add_layer(node, {mixers.block(layer), ffns ? ffns->block(layer) : kNone}, layers);
  return layers;
}

Layers read_units(const Node& node, const Blocks& blocks) {
  Layers layers;
  for (const Node& unit : node.items()) {
    const Layers run = read_unit(unit, blocks);
    const int64_t repeat = unit["repeat"].about("How often the layers come.").integer(1, kMostLayers, 1),
                  sum = std::ssize(layers) + repeat * std::ssize(run);
    if (sum > kMostLayers) throw unit.error(fmt::format("expected at most {} layers in all, given {}", kMostLayers, sum));
    for (int64_t k = 0; k < repeat; ++k) layers.insert(layers.end(), run.begin(), run.end());
  }
  if (layers.empty()) throw node.expected("one or more units");
  return layers;
}

}  // namespace ropewalk
