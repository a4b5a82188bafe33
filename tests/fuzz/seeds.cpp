// Usage: fuzz_seeds FOLDER    writes the files from which the fuzzing of binary formats begins, FOLDER/<target>/<name>: made by the
// writers, so that they are never those of an older format.
#include <cstring>
#include <iostream>

#include "data/indexed_writer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shard.h"
#include "trainer/checkpoint/manifest.h"

namespace ropewalk::fuzz {
namespace {

namespace fs = std::filesystem;

void put(const fs::path& folder, const std::string& target, const std::string& name, const std::string& content) {
  fs::create_directories(folder / target);
  write_file(folder / target / name, content);
}

std::string dataset(TokenType type, const std::vector<std::vector<Token>>& documents) {
  const std::string prefix = (scratch_folder() / "seed").string();
  IndexedWriter writer(prefix, type);
  for (const std::vector<Token>& document : documents) writer.append(document);
  writer.finish();
  const std::string tokens = read_file(prefix + ".bin");
  const auto count = static_cast<uint16_t>(tokens.size());
  std::string seed(reinterpret_cast<const char*>(&count), sizeof count);
  return seed + tokens + read_file(prefix + ".idx");
}

void put_datasets(const fs::path& folder) {
  const std::vector<std::vector<Token>> open = {{1, 2, 3}, {}, {4}, {5, 6, 7, 8}, {9}}, ended = {{1, 2, 256}, {256}, {4, 256}};
  put(folder, "dataset_index", "empty", dataset(TokenType::kUInt16, {}));
  put(folder, "dataset_index", "bytes", dataset(TokenType::kUInt8, open));
  put(folder, "dataset_index", "ended", dataset(TokenType::kUInt16, ended));
  put(folder, "dataset_index", "wide", dataset(TokenType::kInt64, ended));
}

void put_safetensors(const fs::path& folder) {
  SafetensorsHeader none;
  put(folder, "safetensors", "none", lay_out_safetensors(none));
  put(folder, "safetensors", "two", shard_bytes());
  put(folder, "safetensors", "half", shard_bytes().substr(0, 150));
}

// Tensor a in two boxes, or whole; b whole.
Manifest manifest(bool cut) {
  SafetensorsHeader header = shard_header();
  lay_out_safetensors(header);
  const std::string bytes = shard_bytes();
  const int64_t b_at = header.entries[0].offset, a_at = header.entries[1].offset;
  TensorEntry a{.name = "a", .dtype = DType::kFloat32, .shape = {4, 6}}, b{.name = "b", .dtype = DType::kFloat64, .shape = {3}};
  if (cut)
    a.boxes = {{0, a_at, {{0, 0}, {4, 2}}}, {0, a_at + 32, {{0, 2}, {4, 4}}}};
  else
    a.boxes = {{0, a_at, {{0, 0}, {4, 6}}}};
  b.boxes = {{0, b_at, {{0}, {3}}}};
  return {.meta = {.step = 7, .tokens = 700, .config = "model: {}\n", .mesh = "data 1", .version = "ropewalk", .notes = {{"updates", "7"}}},
          .files = {{kShardName, static_cast<int64_t>(bytes.size()), header.bytes, {checksum(bytes)}}},
          .tensors = {a, b}};
}

void put_manifests(const fs::path& folder) {
  put(folder, "manifest", "empty", "");
  put(folder, "manifest", "whole", encode(manifest(false)));
  put(folder, "manifest", "cut", encode(manifest(true)));
}

}  // namespace
}  // namespace ropewalk::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "fuzz_seeds: expected a folder\n";
    return 2;
  }
  ropewalk::fuzz::put_datasets(argv[1]);
  ropewalk::fuzz::put_safetensors(argv[1]);
  ropewalk::fuzz::put_manifests(argv[1]);
}
