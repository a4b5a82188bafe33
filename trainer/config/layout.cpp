// The grammar of `model.layout`: a pattern spells the layers out, a ratio mixes two mixers; rules and units are read next door.
#include "trainer/config/layout.h"

#include <charconv>

#include "trainer/config/words.h"

namespace ropewalk {
namespace {

std::map<char, std::string> read_symbols(const Node& node, const Blocks& blocks) {
  std::map<char, std::string> symbols;
  for (const Node& symbol : node.entries()) {
    symbol.about("The name of a block.");
    if (symbol.key().size() != 1) throw symbol.error("expected one character");
    symbols[symbol.key()[0]] = read_block_name(symbol, blocks, is_any, "a block");
  }
  return symbols;
}

std::map<char, std::string> one_character_names(const Blocks& blocks) {
  std::map<char, std::string> symbols;
  for (const auto& [name, options] : blocks)
    if (name.size() == 1) symbols[name[0]] = name;
  return symbols;
}

Layers spell(const Node& node, const std::map<char, std::string>& symbols) {
  std::vector<std::string> known;
  known.reserve(symbols.size());
  for (const auto& [character, name] : symbols) known.push_back({character});
  Layers layers;
  for (const char symbol : node.text()) {
    const auto block = symbols.find(symbol);
    if (block == symbols.end())
      throw node.error(fmt::format("expected characters that name blocks ({}), given {} at {}", join_or(known), symbol, layers.size()));
    layers.push_back({block->second});
  }
  return layers;
}

Layers read_pattern(const Node& node, const Blocks& blocks) {
  if (!node.is(Value::kMap)) return spell(node, one_character_names(blocks));
  const Node symbols = node["symbols"].about("What the characters of the string stand for.");
  return spell(node["string"].about("A layer a character."), read_symbols(symbols, blocks));
}

struct Ratio {
  int64_t first = 0, second = 0;
  int64_t sum() const { return first + second; }
};

Ratio read_ratio(const Node& node) {
  const std::string text = node.text();
  const char* const end = text.data() + text.size();
  Ratio ratio;
  const auto colon = std::from_chars(text.data(), end, ratio.first);
  const auto rest = colon.ptr != end && *colon.ptr == ':' ? std::from_chars(colon.ptr + 1, end, ratio.second) : colon;
  const bool counts = ratio.first >= 0 && ratio.second >= 0 && ratio.first <= kMostLayers && ratio.second <= kMostLayers;
  if (colon.ec != std::errc() || rest.ec != std::errc() || rest.ptr != end || rest.ptr == colon.ptr || !counts || ratio.sum() == 0)
    throw node.expected("two counts like \"3:1\"");
  return ratio;
}

int64_t read_layer_count(const Node& node, const Ratio& ratio) {
  const int64_t layers = node.integer(1, kMostLayers), sum = ratio.sum(), below = layers / sum * sum;
  if (layers == below) return layers;
  const std::string fits = below == 0 ? fmt::format("{}", sum) : fmt::format("{} or {}", below, below + sum);
  throw node.error(fmt::format("expected a multiple of {} (ratio {}:{}), given {}; try {}", sum, ratio.first, ratio.second, layers, fits));
}

enum class Placement { kEven, kFirst, kLast, kMiddle };

// The layer of the j-th of k minority layers.
int64_t place(Placement placement, int64_t j, int64_t k, int64_t layers) {
  switch (placement) {
    case Placement::kEven: return (2 * j + 1) * layers / (2 * k);  // floor((j + 1/2) layers / k)
    case Placement::kFirst: return j;
    case Placement::kLast: return layers - k + j;
    case Placement::kMiddle: return (layers - k) / 2 + j;
  }
  return 0;
}

std::pair<std::string, std::string> read_mixers(const Node& node, const Blocks& blocks) {
  const std::vector<Node> of = node.items();
  if (of.size() != 2) throw node.expected("two blocks with mixers");
  const auto name = [&](const Node& item) { return read_block_name(item, blocks, is_mixer, "a block with a mixer"); };
  return {name(of[0]), name(of[1])};
}

Layers mix(const Ratio& ratio, const Node& node, const Blocks& blocks) {
  auto [majority, minority] = read_mixers(node["of"].about("Names of the two blocks, each with a mixer.", "required"), blocks);
  const int64_t layers = read_layer_count(node["layers"].about("How many layers; a multiple of the ratio's sum."), ratio);
  const Node where =
      node["placement"].about("Where the fewer ones stand: j of k `even`ly at floor((j + 1/2) layers / k), or all in one place.");
  const auto placement = where.choice<Placement>(
      {{"even", Placement::kEven}, {"first", Placement::kFirst}, {"last", Placement::kLast}, {"middle", Placement::kMiddle}},
      Placement::kEven);
  if (ratio.first < ratio.second) std::swap(majority, minority);
  const int64_t k = layers / ratio.sum() * std::min(ratio.first, ratio.second);

  Layers mixed(static_cast<size_t>(layers), {majority});
  for (int64_t j = 0; j < k; ++j) mixed[static_cast<size_t>(place(placement, j, k, layers))] = {minority};
  if (const Node ffn = node["ffn"].about("Name of the block with an ffn that follows each mixer.", "no ffn"); ffn.given()) {
    const std::string name = read_block_name(ffn, blocks, is_ffn, "a block with an ffn");
    for (auto& layer : mixed) layer.push_back(name);
  }
  return mixed;
}

}  // namespace

Layers read_layout(const Node& node, const Blocks& blocks) {
  const std::string form = node.one_of({"pattern", "ratio", "rules", "units"});
  if (form == "ratio") {
    const Ratio ratio = read_ratio(node["ratio"].about("How many layers of each of two mixers: \"7:1\"."));
    return mix(ratio, node.as("ratio").about("Two mixers in a ratio."), blocks);
  }
  if (form == "rules") return read_rules(node["rules"].about("Which block a layer has, by conditions on its number i."), blocks);
  if (form == "units") return read_units(node["units"].about("Layers spelled out, in runs that repeat."), blocks);
  const char* const meaning = "A string with a character a layer: the name of a block, or a symbol for one.";
  return read_pattern(node["pattern"].about(meaning), blocks);
}

}  // namespace ropewalk
