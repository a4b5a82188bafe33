// The manifest: what a checkpoint holds, which file has which box, and the checksums.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/checkpoint/box.h"
#include "trainer/checkpoint/pieces.h"

namespace ropewalk {

struct CheckpointMeta {
  int64_t step = 0, tokens = 0;
  std::string config{};   // resolved YAML
  std::string mesh{};     // for people
  std::string version{};  // of the program
  std::map<std::string, std::string> notes{};
};

struct StoredBox {
  int file = 0;        // index into Manifest::files
  int64_t offset = 0;  // of its first byte in the file
  Region region;
};

struct TensorEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<StoredBox> boxes{};
};

struct Manifest {
  CheckpointMeta meta;
  std::vector<FileEntry> files{};
  std::vector<TensorEntry> tensors{};  // by name, ascending
};

constexpr const char* kManifestName = "manifest.pb";

std::string encode(const Manifest& manifest);
// Trusts nothing in `payload`: what comes back has its boxes inside their tensors and files. `source` is for errors.
Manifest decode(const std::string& payload, const std::string& source);

// CheckpointError unless every element of every tensor lies in exactly one box.
void check_tiling(const Manifest& manifest, const std::string& source);

void write_manifest(const std::string& folder, const Manifest& manifest);
Manifest read_manifest(const std::string& folder);

}  // namespace ropewalk
