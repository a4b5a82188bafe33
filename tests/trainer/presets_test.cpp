// Every file of configs/ loads, and the presets are as large as the models they are named for.
#include <gtest/gtest.h>

#include <filesystem>

#include "trainer/config/config.h"
#include "trainer/describe.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;

const std::string kModels = ROPEWALK_SOURCE "/configs/models/";

struct Size {
  std::string preset, total, active = "";  // in 10^9, as published or computed by hand from the published dims
};

// Section 22 of the notes on architectures, but for the last three: Samba's published sizes count its two matrices of 32000 x d_model as
// one (470,945,280 - 49,152,000 = 421,793,280), the MambaFormer's and the Transformer's are those of the layers written out.
const Size kSizes[] = {
    {"mamba-130m", "0.129"},
    {"mamba-370m", "0.372"},
    {"mamba-790m", "0.793"},
    {"mamba-1.4b", "1.372"},
    {"mamba-2.8b", "2.768"},
    {"mamba2-130m", "0.129"},
    {"mamba2-370m", "0.368"},
    {"mamba2-780m", "0.780"},
    {"mamba2-1.3b", "1.344"},
    {"mamba2-2.7b", "2.703"},
    {"jamba-v0.1", "51.570", "12.110"},
    {"jamba-1.5-large", "398.555", "94.149"},
    {"blackmamba-1.5b", "1.458", "0.344"},
    {"blackmamba-2.8b", "2.783", "0.629"},
    {"waleffe-8b", "8.655"},
    {"nemotron-h-4b", "4.489"},
    {"nemotron-h-8b", "8.101"},
    {"nemotron-h-47b", "46.792"},
    {"nemotron-h-56b", "56.324"},
    {"bamba-9b", "9.780"},
    {"granite-4-h-small", "32.207", "8.803"},
    {"granite-4-h-tiny", "6.939", "1.465"},
    {"granite-4-h-1b", "1.462"},
    {"granite-4-h-micro", "3.191"},
    {"falcon-h1-0.5b", "0.521"},
    {"falcon-h1-1.5b", "1.555"},
    {"falcon-h1-1.5b-deep", "1.555"},
    {"falcon-h1-3b", "3.149"},
    {"falcon-h1-7b", "7.586"},
    {"falcon-h1-34b", "33.642"},
    {"samba-421m", "0.471"},
    {"samba-1.3b", "1.404"},
    {"transformer-1b", "1.236"},
    {"mambaformer", "0.001"},
};

std::string in_billions(int64_t count) { return fmt::format("{:.3f}", static_cast<double>(count) / 1e9); }

TEST(Presets, AreAsLargeAsPublished) {
  for (const Size& size : kSizes) {
    const ParameterTotals totals = count_parameters(load_config(kModels + size.preset + ".yaml", {}).options.model);
    EXPECT_EQ(in_billions(totals.all), size.total) << size.preset << " " << totals.all;
    EXPECT_EQ(in_billions(totals.active), size.active.empty() ? size.total : size.active) << size.preset << " " << totals.active;
  }
}

TEST(Presets, AreAllSized) {
  for (const auto& file : fs::directory_iterator(kModels)) {
    const std::string name = file.path().stem().string();
    const bool sized = std::any_of(std::begin(kSizes), std::end(kSizes), [&](const Size& size) { return size.preset == name; });
    EXPECT_TRUE(sized || name.ends_with("-laptop")) << name;
  }
}

TEST(Presets, ForALaptopCanBeTrained) {
  for (const auto& file : fs::directory_iterator(kModels)) {
    if (!file.path().stem().string().ends_with("-laptop")) continue;
    const Config config = load_config(file.path().string(), {});
    EXPECT_NO_THROW(require_trainable(config));
    EXPECT_NO_THROW(resolve_mesh(config, 2)) << file.path();
    EXPECT_LT(count_parameters(config.options.model).all, 10'000'000) << file.path();
  }
}

}  // namespace
}  // namespace ropewalk
