// Bytes for parse_safetensors: a file. What is wrong is a CheckpointError; what is right lies inside the file and can be written again.
#include "tests/fuzz/fuzz.h"
#include "trainer/checkpoint/safetensors.h"

namespace ropewalk {
namespace {

SafetensorsHeader parse(const std::string& file) {
  const auto read = [&](int64_t offset, int64_t count) {
    fuzz::require(offset >= 0 && count >= 0 && offset + count <= std::ssize(file), "the reader asks for bytes that the file has not");
    return file.substr(static_cast<size_t>(offset), static_cast<size_t>(count));
  };
  return parse_safetensors(std::ssize(file), read, "fuzz.safetensors");
}

}  // namespace

void fuzz::run_one(const std::string& input) {
  SafetensorsHeader header;
  try {
    header = parse(input);
  } catch (const CheckpointError&) {
    return;
  }
  for (const SafetensorsEntry& entry : header.entries) {
    const std::optional<int64_t> bytes = bytes_of(entry.shape, entry.dtype);
    require(bytes && entry.offset >= header.bytes && entry.offset + *bytes <= std::ssize(input), "a tensor does not lie in the file");
  }
  SafetensorsHeader written = header;
  std::string file = lay_out_safetensors(written);
  file.append(input, static_cast<size_t>(header.bytes));
  const SafetensorsHeader again = parse(file);
  require(again.metadata == written.metadata && again.entries.size() == written.entries.size(), "what is written reads back as another");
}

}  // namespace ropewalk
