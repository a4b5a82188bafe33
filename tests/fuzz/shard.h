// The shard that the manifests of the seeds name; manifest_fuzz lays it beside each manifest.
#pragma once

#include <string>

#include "trainer/checkpoint/safetensors.h"

namespace ropewalk::fuzz {

constexpr const char* kShardName = "shard-00000.safetensors";

// A [4, 6] F32 and a [3] F64, whole.
inline SafetensorsHeader shard_header() {
  return {.metadata = {{"program", "ropewalk"}}, .entries = {{"b", DType::kFloat64, {3}}, {"a", DType::kFloat32, {4, 6}}}};
}

inline std::string shard_bytes() {
  SafetensorsHeader header = shard_header();
  std::string bytes = lay_out_safetensors(header);
  for (int i = 0; i < 3 * 8 + 24 * 4; ++i) bytes.push_back(static_cast<char>(i));
  return bytes;
}

}  // namespace ropewalk::fuzz
