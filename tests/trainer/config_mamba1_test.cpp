#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::mistake;
using testing::parse;
using testing::small_with;

// kSmall with Mamba-1 in the place of its Mamba-2.
std::string with_mamba1(const std::string& keys) {
  return small_with("{mixer: mamba2, heads: 8, head_dim: 16, state: 16}", "{mixer: mamba1" + keys + "}");
}
Mamba1Options mamba1(const std::string& keys) { return std::get<Mamba1Options>(parse(with_mamba1(keys)).options.model.blocks.at("M")); }

TEST(Mamba1Block, HasTheContractsDefaults) {
  EXPECT_EQ(mamba1(""), (Mamba1Options{.state = 16, .expand = 2, .conv = 4, .dt_rank = 4, .heads = 1, .dtbc_norm = false}));
  EXPECT_EQ(std::get<Mamba1Options>(parse(with_mamba1(""), {"model.d_model=68"}).options.model.blocks.at("M")).dt_rank, 5);
}

TEST(Mamba1Block, ReadsWhatIsGiven) {
  EXPECT_EQ(mamba1(", state: 8, expand: 3, conv: 2, dt_rank: 7, heads: 2, dtbc_norm: true"),
            (Mamba1Options{.state = 8, .expand = 3, .conv = 2, .dt_rank = 7, .heads = 2, .dtbc_norm = true}));
  EXPECT_EQ(mamba1(", dt_rank: null"), mamba1(""));
}

TEST(Mamba1Block, ResolvesToWhatItReads) {
  for (const char* keys : {"", ", dt_rank: 3, heads: 2, dtbc_norm: true"}) {
    const Config config = parse(with_mamba1(keys));
    EXPECT_EQ(parse(config.resolved).options, config.options);
  }
}

TEST(Mamba1Block, RefusesWhatDoesNotFit) {
  const auto message = [](const std::string& keys) { return mistake([&] { parse(with_mamba1(keys)); }); };
  EXPECT_EQ(message(", heads: 3"), "configs/x.yaml:4: model.blocks.M.heads: expected a divisor of expand x d_model (128), given 3");
  EXPECT_EQ(message(", dt_rank: auto"), "configs/x.yaml:4: model.blocks.M.dt_rank: expected a positive integer, given auto");
  EXPECT_EQ(message(", head_dim: 16"),
            "configs/x.yaml:4: model.blocks.M.head_dim: unknown key; expected one of mixer, ffn, parallel, state, expand, conv, dt_rank, "
            "heads or dtbc_norm");
}

TEST(Mamba1Block, IsCutByChannels) {
  const auto message = [](const std::string& keys, int tensor) {
    const Config config = parse(with_mamba1(keys), {fmt::format("parallel.tensor={}", tensor), "model.layout.pattern=M"});
    return mistake([&] { resolve_mesh(config, tensor); });
  };
  EXPECT_EQ(message("", 8), "no mistake");
  EXPECT_EQ(message(", heads: 2", 4), "no mistake");
  EXPECT_EQ(message(", heads: 4", 2), "no mistake");
  EXPECT_EQ(message("", 3),
            "command line: parallel.tensor: expected a divisor of model.blocks.M.expand x model.d_model (128, by default), given 3; try 1");
  EXPECT_EQ(
      message(", expand: 3, heads: 3", 2),
      "command line: parallel.tensor: expected a divisor or a multiple of model.blocks.M.heads (3, configs/x.yaml:4), given 2; try 1");
}

}  // namespace
}  // namespace ropewalk
