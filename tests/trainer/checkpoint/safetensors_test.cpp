#include "trainer/checkpoint/safetensors.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/trainer/checkpoint/checkpoint_support.h"

namespace ropewalk::testing {
namespace {

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(
      static_cast<int64_t>(file.size()), [&](int64_t offset, int64_t count) { return file.substr(offset, count); }, "some.safetensors");
}

std::string with_json(const std::string& text, size_t data_bytes = 0) {
  const uint64_t length = text.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + text + std::string(data_bytes, 'x');
}

// Reads a shard as any tool would, with nothing of ours.
TEST(Safetensors, IsTheFormatThatOtherToolsRead) {
  const TemporaryFolder folder;
  const std::vector<Named> tensors = {{"a.bf16", random_bits({3}, DType::kBFloat16, 1)},
                                      {"b.fp64", random_bits({5, 3}, DType::kFloat64, 2)},
                                      {"c.int64", random_bits({1}, DType::kInt64, 3)},
                                      {"d.fp32", random_bits({7, 1, 2}, DType::kFloat32, 4)}};
  const std::string shard = content_of(write_checkpoint(folder / "c", {.step = 7}, whole(tensors), {}) + "/shard-00000.safetensors");
  uint64_t length = 0;
  std::memcpy(&length, shard.data(), sizeof length);
  EXPECT_EQ((8 + length) % 64, 0u);
  const auto json = nlohmann::json::parse(shard.substr(8, length));
  EXPECT_EQ(json["__metadata__"]["step"], "7");
  const std::map<std::string, std::string> dtypes = {{"a.bf16", "BF16"}, {"b.fp64", "F64"}, {"c.int64", "I64"}, {"d.fp32", "F32"}};
  size_t bytes = 0;
  for (const Named& t : tensors) {
    const auto& entry = json[t.name];
    EXPECT_EQ(entry["dtype"], dtypes.at(t.name));
    EXPECT_EQ(entry["shape"], std::vector<int64_t>(t.value.shape().begin(), t.value.shape().end()));
    const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    ASSERT_EQ(end - begin, static_cast<size_t>(t.value.bytes()));
    EXPECT_EQ(begin % size_of(t.value.dtype()), 0u);
    EXPECT_EQ(std::memcmp(shard.data() + 8 + length + begin, t.value.raw(), end - begin), 0);
    bytes += end - begin;
  }
  EXPECT_EQ(shard.size(), 8 + length + bytes);
  EXPECT_EQ(json.size(), tensors.size() + 1);
}

TEST(Safetensors, RefusesWhatIsNotTheFormat) {
  const std::string good = R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  EXPECT_EQ(parse(with_json(good, 24)).entries.at(0).offset, 8 + static_cast<int64_t>(good.size()));
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"", "is no safetensors file"},
      {"1234567", "is no safetensors file"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "is no safetensors file"},
      {with_json(good, 23), "ends after the file"},
      {with_json(good, 25), "expected 89 bytes"},
      {with_json("{\"w\":", 24), "no JSON object"},
      {with_json("[]"), "no JSON object"},
      {with_json(R"({"w":3})"), "tensor w: expected dtype"},
      {with_json(R"({"w":{"dtype":"F7","shape":[2],"data_offsets":[0,8]}})", 8), "tensor w: dtype"},
      {with_json(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "tensor w: shape"},
      {with_json(R"({"w":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8), "tensor w: shape"},
      {with_json(R"({"w":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8), "tensor w: shape"},
      {with_json(R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8), "at most 6 dims"},
      {with_json(R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8), "do not hold"},
      {with_json(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}})", 8), "natural numbers"},
      {with_json(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "do not hold"},
      {with_json(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8), "expected 2"},
      {with_json(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), "expected offset 0"},
      {with_json(R"({"__metadata__":{"a":1}})"), "expected a string"},
      {with_json(R"({"__metadata__":null})"), "expected an object"},
  };
  for (const auto& [file, reason] : bad) EXPECT_THAT(checkpoint_error([&] { parse(file); }), ::testing::HasSubstr(reason)) << file;
}

TEST(Safetensors, SurvivesAnyHeader) {
  const std::string good = with_json(R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                     R"("u":{"dtype":"I64","shape":[],"data_offsets":[24,32]}})",
                                     32);
  std::mt19937_64 random(5);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bad = good;
    for (int k = 0; k < 1 + i % 3; ++k) bad[random() % bad.size()] = static_cast<char>(random());
    refused += !checkpoint_error([&] { parse(bad); }).empty();
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace ropewalk::testing
