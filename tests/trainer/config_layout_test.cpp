#include <algorithm>

#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::mistake;
using testing::parse;
using testing::small_with;

// The layers as one word; as several where a layer has more than one block: "MF AF".
std::string spelled(const Config& config) {
  const auto& layers = config.options.model.layers;
  const bool single = std::all_of(layers.begin(), layers.end(), [](const auto& layer) { return layer.size() == 1; });
  std::string word;
  for (const auto& layer : layers) {
    if (!word.empty() && !single) word += ' ';
    for (const std::string& block : layer) word += block;
  }
  return word;
}

Config with_layout(const std::string& layout) { return parse(small_with("{pattern: MFAFHF}", layout)); }

TEST(Layout, SpellsAPattern) {
  EXPECT_EQ(spelled(with_layout("{pattern: MFMFAF}")), "MFMFAF");
  EXPECT_EQ(spelled(with_layout("{pattern: {symbols: {\"*\": A, \"-\": F, s: M}, string: \"s-s*-\"}}")), "MFMAF");
  const std::string text = small_with("F: {ffn", "\"-\": {ffn");
  EXPECT_EQ(parse(text, {"model.layout.pattern=\"M-A-\""}).options.model.layers[1], std::vector<std::string>{"-"});
}

TEST(Layout, PlacesTheMinorityOfARatio) {
  const struct {
    const char *ratio, *layers, *placement, *expected;
  } cases[] = {
      {"3:1", "4", "even", "MMAM"},       {"3:1", "8", "even", "MMAMMMAM"},
      {"7:1", "8", "even", "MMMMAMMM"},   {"7:1", "16", "even", "MMMMAMMMMMMMAMMM"},
      {"1:1", "4", "even", "MAMA"},       {"2:1", "6", "even", "MAMMAM"},
      {"3:2", "5", "even", "MAMAM"},      {"3:2", "10", "even", "MAMAMMAMAM"},
      {"1:3", "8", "even", "AAMAAAMA"},   {"1:0", "3", "even", "MMM"},
      {"0:1", "3", "even", "AAA"},        {"0:1", "3", "first", "AAA"},
      {"3:1", "8", "first", "AAMMMMMM"},  {"3:1", "8", "last", "MMMMMMAA"},
      {"3:1", "8", "middle", "MMMAAMMM"}, {"5:1", "6", "middle", "MMAMMM"},
      {"1:3", "4", "last", "AAAM"},       {"1:1", "4", "first", "AAMM"},
  };
  for (const auto& c : cases)
    EXPECT_EQ(spelled(with_layout(fmt::format("{{ratio: {}, of: [M, A], layers: {}, placement: {}}}", c.ratio, c.layers, c.placement))),
              c.expected)
        << c.ratio << " " << c.layers << " " << c.placement;
}

TEST(Layout, FollowsEachMixerOfARatioByItsFfn) {
  EXPECT_EQ(spelled(with_layout("{ratio: \"3:1\", of: [M, A], layers: 4, ffn: F}")), "MF MF AF MF");
  EXPECT_EQ(spelled(with_layout("{ratio: \"1:1\", of: [M, H], layers: 2}")), "MH");
}

TEST(Layout, FollowsRules) {
  EXPECT_EQ(spelled(with_layout("{rules: {layers: 8, mixer: {A: \"i % 8 == 4\", else: M}}}")), "MMMMAMMM");
  EXPECT_EQ(spelled(with_layout("{rules: {layers: 4, mixer: {A: i == 2, else: M}, ffn: {F: i % 2 == 1, else: none}}}")), "M MF A MF");
  EXPECT_EQ(spelled(with_layout("{rules: {layers: 4, mixer: {none: i == 0, A: i < 2, H: i < 3, else: M}, ffn: F}}")), "F AF HF MF");
  EXPECT_EQ(spelled(with_layout("{rules: {layers: 2, mixer: M}}")), "MM");
  EXPECT_EQ(spelled(with_layout("{rules: {layers: 2, mixer: {A: i == 0, M: i >= 1}}}")), "AM");
}

TEST(Layout, RepeatsUnits) {
  EXPECT_EQ(spelled(with_layout("{units: [{layers: [M, [A, F]]}, {repeat: 2, layers: [[M, F, A, F], [M, none]]}]}")), "M AF MFAF M MFAF M");
}

TEST(Layout, RefusesRulesAndUnitsThatMakeNoLayers) {
  const auto message = [](const std::string& layout) {
    const std::string text = mistake([&] { with_layout(layout); }), place = "configs/x.yaml:8: model.layout.";
    EXPECT_EQ(text.substr(0, place.size()), place);
    return text.substr(std::min(text.size(), place.size()));
  };
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {A: i == 1}}}"), "rules.mixer: layer 0 fits no rule; say what it is by else");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {A: i == 1, else: none}}}"), "rules: layer 0 has no block");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {B: i == 1, else: M}}}"),
            "rules.mixer.B: expected none or a block with a mixer (A, H or M), given B");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {A: i == 1, else: F}}}"),
            "rules.mixer.else: expected none or a block with a mixer (A, H or M), given F");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: M, ffn: A}}"), "rules.ffn: expected none or a block with an ffn (F), given A");
  EXPECT_EQ(message("{rules: {mixer: M}}"), "rules.layers: required, not given");
  EXPECT_EQ(message("{rules: {layers: 4}}"), "rules.mixer: required, not given");
  EXPECT_EQ(message("{rules: {layers: 100000, mixer: M}}"), "rules.layers: expected at most 65536, given 100000");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {A: \"i % 2 = 1\", else: M}}}"),
            "rules.mixer.A: expected an operator or the end, given = at character 7 of \"i % 2 = 1\"");
  EXPECT_EQ(message("{rules: {layers: 4, mixer: {A: 2 % (i - 3) == 1, else: M}}}"),
            "rules.mixer.A: a remainder by 0 at character 3, where i is 3");
  EXPECT_EQ(message("{units: []}"), "units: expected one or more units, given []");
  EXPECT_EQ(message("{units: [{repeat: 2}]}"), "units.0.layers: expected one or more layers, given nothing");
  EXPECT_EQ(message("{units: [{layers: [[M, X]]}]}"), "units.0.layers.0.1: expected none or a block (A, F, H or M), given X");
  EXPECT_EQ(message("{units: [{layers: [M, none]}]}"), "units.0.layers.1: layer 1 has no block");
  EXPECT_EQ(message("{units: [{layers: [M]}, {repeat: 0, layers: [M]}]}"), "units.1.repeat: expected a positive integer, given 0");
  EXPECT_EQ(message("{units: [{layers: [M, A, A]}, {repeat: 65535, layers: [M, M, M]}]}"),
            "units.1: expected at most 65536 layers in all, given 196608");
}

TEST(Layout, RefusesWhatDoesNotSpellAModel) {
  const auto message = [](const std::string& layout) { return mistake([&] { with_layout(layout); }); };
  EXPECT_EQ(message("{pattern: MXA}"),
            "configs/x.yaml:8: model.layout.pattern: expected characters that name blocks (A, F, H or M), given X at 1");
  EXPECT_EQ(message("{pattern: {symbols: {m: M, a: X}, string: mma}}"),
            "configs/x.yaml:8: model.layout.pattern.symbols.a: expected a block (A, F, H or M), given X");
  EXPECT_EQ(message("{pattern: {symbols: {mm: M}, string: mma}}"),
            "configs/x.yaml:8: model.layout.pattern.symbols.mm: expected one character");
  EXPECT_EQ(message("{pattern: {symbols: {m: M}, string: ma}}"),
            "configs/x.yaml:8: model.layout.pattern.string: expected characters that name blocks (m), given a at 1");
  EXPECT_EQ(message("{pattern: MA, ratio: \"1:1\"}"),
            "configs/x.yaml:8: model.layout: expected one of pattern, ratio, rules or units, given pattern (configs/x.yaml:8) and ratio "
            "(configs/x.yaml:8)");
  EXPECT_EQ(message("{patern: MA}"), "configs/x.yaml:8: model.layout.patern: unknown key; did you mean pattern?");
  EXPECT_EQ(message("{stripes: []}"), "configs/x.yaml:8: model.layout: expected one of pattern, ratio, rules or units, given none");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, A], layers: 12}"),
            "configs/x.yaml:8: model.layout.layers: expected a multiple of 8 (ratio 7:1), given 12; try 8 or 16");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, A], layers: 6}"),
            "configs/x.yaml:8: model.layout.layers: expected a multiple of 8 (ratio 7:1), given 6; try 8");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, A], layers: 8000000}"),
            "configs/x.yaml:8: model.layout.layers: expected at most 65536, given 8000000");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, F], layers: 8}"),
            "configs/x.yaml:8: model.layout.of.1: expected a block with a mixer (A, H or M), given F");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M], layers: 8}"),
            "configs/x.yaml:8: model.layout.of: expected two blocks with mixers, given [M]");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, A], layers: 8, ffn: A}"),
            "configs/x.yaml:8: model.layout.ffn: expected a block with an ffn (F), given A");
  EXPECT_EQ(message("{ratio: \"7:1\", of: [M, A], layers: 8, placement: random}"),
            "configs/x.yaml:8: model.layout.placement: expected even, first, last or middle, given random");
  for (const char* ratio : {"7", "7:", ":1", "7:1:1", "7-1", "0:0", "-1:2", "seven", "7 : 1", "1:99999999999999999999"})
    EXPECT_EQ(message(fmt::format("{{ratio: \"{}\", of: [M, A], layers: 8}}", ratio)),
              fmt::format("configs/x.yaml:8: model.layout.ratio: expected two counts like \"3:1\", given \"{}\"", ratio));
}

TEST(Layout, HasWordsThatNameNoBlock) {
  EXPECT_EQ(mistake([] { parse(small_with("H: {par", "none: {par")); }),
            "configs/x.yaml:7: model.blocks.none: is a word of layouts; give the block another name");
}

Config with_sharing(const std::string& sharing) {
  return parse(small_with("  layout: {pattern: MFAFHF}\n",
                          "    B: {mixer: attention, heads: 4, kv_heads: 2}\n"
                          "    R: {mixer: attention, heads: 4, rope: {theta: 10}}\n"
                          "  layout: {pattern: MFAFAFMBBR}\n  sharing: " +
                              sharing + "\n"));
}

TEST(Sharing, JoinsLayers) {
  const Config config = with_sharing("{blocks: [{name: core, at: [0, 6]}, {name: mlp, at: [1, 3, 5]}], kv: [{from: 2, to: [4]}]}");
  const ModelOptions& model = config.options.model;
  EXPECT_EQ(model.shared, (std::vector<SharedBlockOptions>{{.name = "core", .at = {0, 6}}, {.name = "mlp", .at = {1, 3, 5}}}));
  EXPECT_EQ(model.kv, (std::vector<KvShareOptions>{{.from = 2, .to = {4}}}));
  EXPECT_TRUE(with_sharing("{blocks: [{name: core, at: [2, 4], concat_embedding: true}]}").options.model.shared[0].concat_embedding);
}

TEST(Sharing, RefusesLayersThatCannotShare) {
  const auto message = [](const std::string& sharing) {
    const std::string text = mistake([&] { with_sharing(sharing); }), place = "configs/x.yaml:11: model.sharing.";
    EXPECT_EQ(text.substr(0, place.size()), place);
    return text.substr(std::min(text.size(), place.size()));
  };
  EXPECT_EQ(message("{blocks: [{name: a, at: [0, 10]}]}"), "blocks.0.at.1: expected a layer from 0 to 9, given 10");
  EXPECT_EQ(message("{blocks: [{name: a, at: [0, 2]}]}"), "blocks.0.at.1: expected the same blocks as layer 0 (M), given layer 2 (A)");
  EXPECT_EQ(message("{blocks: [{name: a, at: [1, 3]}, {name: b, at: [3, 5]}]}"), "blocks.1.at.0: layer 3 is in a share already");
  EXPECT_EQ(message("{blocks: [{name: a, at: [1, 3]}, {name: a, at: [0, 6]}]}"), "blocks.1.name: a is the name of another share");
  EXPECT_EQ(message("{blocks: [{name: a, at: []}]}"), "blocks.0.at: expected one or more layers, given []");
  EXPECT_EQ(message("{blocks: [{name: a, at: [1, 3], concat_embedding: true}]}"),
            "blocks.0.concat_embedding: layer 1 has no mixer that could read the embedding");
  EXPECT_EQ(message("{kv: [{from: 0, to: [2]}]}"), "kv.0.from: expected a layer with one attention block, given layer 0 (M)");
  EXPECT_EQ(message("{kv: [{from: 2, to: [3]}]}"), "kv.0.to.0: expected a layer with one attention block, given layer 3 (F)");
  EXPECT_EQ(message("{kv: [{from: 4, to: [2]}]}"), "kv.0.to.0: expected a layer after 4, given 2");
  EXPECT_EQ(message("{kv: [{from: 2, to: [7]}]}"),
            "kv.0.to.0: expected kv_heads, head_dim, rope, qk_norm and key_scale of layer 2 (A), which layer 7 (B) has not");
  EXPECT_EQ(
      mistake([] { parse(small_with("{pattern: MFAFHF}", "{units: [{layers: [[A, A], A]}]}\n  sharing: {kv: [{from: 0, to: [1]}]}")); }),
      "configs/x.yaml:9: model.sharing.kv.0.from: expected a layer with one attention block, given layer 0 (A A)");
  EXPECT_EQ(message("{kv: [{from: 2, to: [9]}]}"),
            "kv.0.to.0: expected kv_heads, head_dim, rope, qk_norm and key_scale of layer 2 (A), which layer 9 (R) has not");
  EXPECT_EQ(message("{kv: [{from: 2, to: [4, 4]}]}"), "kv.0.to.1: layer 4 uses another layer's keys and values already");
  EXPECT_EQ(message("{kv: [{from: 2, to: []}]}"), "kv.0.to: expected one or more layers, given []");
  EXPECT_EQ(message("{blocks: [{name: a, at: [2, 4]}], kv: [{from: 2, to: [4]}]}"),
            "kv.0.to.0: layer 4 shares its parameters: it needs keys and values of its own");
  EXPECT_EQ(mistake([&] { parse(small_with("MFAFHF}", "AAA}\n  sharing: {kv: [{from: 1, to: [2]}, {from: 0, to: [1]}]}")); }),
            "configs/x.yaml:9: model.sharing.kv.0.from: layer 1 uses another layer's keys and values: it has none to share");
}

}  // namespace
}  // namespace ropewalk
