#include "trainer/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace ropewalk {
namespace {

using nlohmann::json;

constexpr int64_t kLengthBytes = sizeof(uint64_t);
constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxJson = 100'000'000;  // the format's own limit
constexpr const char* kMetadata = "__metadata__";

constexpr std::array<std::pair<DType, const char*>, 4> kDTypes{
    {{DType::kFloat64, "F64"}, {DType::kFloat32, "F32"}, {DType::kBFloat16, "BF16"}, {DType::kInt64, "I64"}}};

std::vector<int64_t> natural_numbers(const json& list, const std::string& what) {
  std::vector<int64_t> numbers;
  for (const json& number : list.is_array() ? list : json::array({-1})) {
    if (!number.is_number_unsigned() || number.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      throw CheckpointError("{}: expected a list of natural numbers", what);
    numbers.push_back(number.get<int64_t>());
  }
  return numbers;
}

// An entry whose offset still counts from the first tensor. `what` is for errors.
SafetensorsEntry parse_entry(const std::string& name, const json& value, const std::string& what) {
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets"))
    throw CheckpointError("{}: expected dtype, shape and data_offsets", what);
  const auto dtype = value["dtype"].is_string() ? dtype_of_safetensors(value["dtype"]) : std::nullopt;
  if (!dtype) throw CheckpointError("{}: dtype: expected F64, F32, BF16 or I64", what);
  const std::vector<int64_t> extents = natural_numbers(value["shape"], what + ": shape");
  if (extents.size() > Shape::kMaxRank) throw CheckpointError("{}: expected at most {} dims", what, +Shape::kMaxRank);
  const Shape shape(extents.data(), static_cast<int>(extents.size()));

  const std::vector<int64_t> range = natural_numbers(value["data_offsets"], what + ": data_offsets");
  if (range.size() != 2) throw CheckpointError("{}: data_offsets: expected 2, found {}", what, range.size());
  if (range[0] > range[1] || range[1] - range[0] != bytes_of(shape, *dtype))
    throw CheckpointError("{}: data_offsets [{}, {}] do not hold {} {}", what, range[0], range[1], *dtype, shape);
  return {name, *dtype, shape, range[0]};
}

std::map<std::string, std::string> parse_metadata(const json& value, const std::string& path) {
  if (!value.is_object()) throw CheckpointError("{}: header: {}: expected an object", path, kMetadata);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) throw CheckpointError("{}: header: {}: {}: expected a string", path, kMetadata, key);
    metadata[key] = text;
  }
  return metadata;
}

// The format allows no hole between tensors and nothing after the last.
void place_entries(SafetensorsHeader& header, int64_t file_bytes, const std::string& path) {
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  int64_t end = header.bytes;
  for (SafetensorsEntry& entry : header.entries) {
    if (entry.offset != end - header.bytes)
      throw CheckpointError("{}: header: tensor {}: expected offset {}, found {}", path, entry.name, end - header.bytes, entry.offset);
    entry.offset = end;
    const int64_t bytes = *bytes_of(entry.shape, entry.dtype);
    if (bytes > file_bytes - end) throw CheckpointError("{}: header: tensor {} ends after the file", path, entry.name);
    end += bytes;
  }
  if (end != file_bytes) throw CheckpointError("{}: expected {} bytes (header), found {}", path, end, file_bytes);
}

}  // namespace

const char* safetensors_name(DType dtype) {
  for (const auto& [known, name] : kDTypes)
    if (known == dtype) return name;
  throw ShapeError(fmt::format("checkpoint: expected fp64, fp32, bf16 or int64, given {}", dtype));
}

std::optional<DType> dtype_of_safetensors(const std::string& name) {
  for (const auto& [dtype, known] : kDTypes)
    if (name == known) return dtype;
  return std::nullopt;
}

std::optional<int64_t> bytes_of(const Shape& shape, DType dtype) {
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  for (const int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  return bytes;
}

std::string lay_out_safetensors(SafetensorsHeader& header) {
  json root = json::object();
  if (!header.metadata.empty()) root[kMetadata] = header.metadata;
  int64_t end = 0;
  for (SafetensorsEntry& entry : header.entries) {
    expect(!root.contains(entry.name), "safetensors: two tensors are named {}", entry.name);
    entry.offset = end;
    end += *bytes_of(entry.shape, entry.dtype);
    root[entry.name] = {{"dtype", safetensors_name(entry.dtype)},
                        {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                        {"data_offsets", {entry.offset, end}}};
  }
  std::string text = root.dump();
  const int64_t unpadded = kLengthBytes + static_cast<int64_t>(text.size());
  header.bytes = (unpadded + kAlignment - 1) / kAlignment * kAlignment;
  text.append(static_cast<size_t>(header.bytes - unpadded), ' ');
  for (SafetensorsEntry& entry : header.entries) entry.offset += header.bytes;

  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

SafetensorsHeader parse_safetensors(int64_t file_bytes, const std::function<std::string(int64_t, int64_t)>& read, const std::string& path) {
  uint64_t length = 0;
  if (file_bytes >= kLengthBytes) std::memcpy(&length, read(0, kLengthBytes).data(), sizeof length);
  if (length < 2 || length > static_cast<uint64_t>(std::min(kMaxJson, file_bytes - kLengthBytes)))
    throw CheckpointError("{}: is no safetensors file: {} bytes, a header of {}", path, file_bytes, length);
  SafetensorsHeader header;
  header.bytes = kLengthBytes + static_cast<int64_t>(length);
  const json root = json::parse(read(kLengthBytes, static_cast<int64_t>(length)), nullptr, false);
  if (!root.is_object()) throw CheckpointError("{}: the header is no JSON object", path);
  for (const auto& [name, value] : root.items()) {
    if (name == kMetadata)
      header.metadata = parse_metadata(value, path);
    else
      header.entries.push_back(parse_entry(name, value, fmt::format("{}: header: tensor {}", path, name)));
  }
  place_entries(header, file_bytes, path);
  return header;
}

}  // namespace ropewalk
