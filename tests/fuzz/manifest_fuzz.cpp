// Bytes for read_manifest: the payload of a manifest, whose checksum is put right, or no mutation would come further. What is wrong is a
// CheckpointError, and so is what is wrong with the shard beside it (shard.h).
#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shard.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace ropewalk {
namespace {

constexpr int64_t kMostElements = 1 << 16;  // of a tensor that is read; elements may share bytes of a file

void write_input(const std::filesystem::path& folder, const std::string& payload) {
  const uint64_t sum = checksum(payload);
  fuzz::write_file(folder / kManifestName, "RPWLKCP\x01" + std::string(reinterpret_cast<const char*>(&sum), sizeof sum) + payload);
}

void read_tensors(CheckpointReader& reader) {
  for (const CheckpointReader::TensorInfo& tensor : reader.tensors()) {
    if (tensor.shape.numel() > kMostElements) continue;
    Shape start = tensor.shape;
    for (int d = 0; d < start.rank(); ++d) start[d] = 0;
    reader.read({tensor.name, tensor.shape, start, tensor.shape, Tensor::empty(tensor.shape, tensor.dtype)});
  }
}

void check_round_trip(const std::string& payload) {
  const std::string once = encode(decode(payload, "input"));
  fuzz::require(encode(decode(once, "again")) == once, "what is written reads back as another");
}

}  // namespace

void fuzz::run_one(const std::string& input) {
  static const std::filesystem::path folder = [] {
    write_file(scratch_folder() / kShardName, shard_bytes());
    return scratch_folder();
  }();
  write_input(folder, input);
  try {
    CheckpointReader reader(folder.string());
    check_round_trip(input);
    read_tensors(reader);
    reader.verify();
  } catch (const CheckpointError&) {
  }
}

}  // namespace ropewalk
