#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::mistake;
using testing::parse;
using testing::small_with;

// The layers as one word: "MF AF" has two layers of two blocks.
std::string spelled(const Config& config) {
  std::string word;
  for (const auto& layer : config.options.model.layers) {
    if (!word.empty() && layer.size() > 1) word += ' ';
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
  EXPECT_EQ(
      message("{pattern: MA, ratio: \"1:1\"}"),
      "configs/x.yaml:8: model.layout: expected one of pattern or ratio, given pattern (configs/x.yaml:8) and ratio (configs/x.yaml:8)");
  EXPECT_EQ(message("{patern: MA}"), "configs/x.yaml:8: model.layout.patern: unknown key; did you mean pattern?");
  EXPECT_EQ(message("{units: []}"), "configs/x.yaml:8: model.layout: expected one of pattern or ratio, given none");
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
  EXPECT_EQ(message("{kv: [{from: 0, to: [2]}]}"), "kv.0.from: expected a layer with attention, given layer 0 (M)");
  EXPECT_EQ(message("{kv: [{from: 2, to: [3]}]}"), "kv.0.to.0: expected a layer with attention, given layer 3 (F)");
  EXPECT_EQ(message("{kv: [{from: 4, to: [2]}]}"), "kv.0.to.0: expected a layer after 4, given 2");
  EXPECT_EQ(message("{kv: [{from: 2, to: [7]}]}"),
            "kv.0.to.0: expected kv_heads, head_dim, rope, qk_norm and key_scale of layer 2 (A), which layer 7 (B) has not");
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
