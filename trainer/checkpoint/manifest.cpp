#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/manifest.pb.h"
#include "trainer/checkpoint/safetensors.h"

namespace ropewalk {
namespace {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian");

constexpr std::string_view kMagic("RPWLKCP\x01", 8);  // the last byte is the version of the format
constexpr size_t kHeaderBytes = kMagic.size() + sizeof(uint64_t);

template <class Repeated>
void put(const Shape& shape, Repeated* into) {
  for (const int64_t extent : shape) into->Add(extent);
}

void put(const CheckpointMeta& meta, manifest::Meta* into) {
  into->set_step(meta.step);
  into->set_tokens(meta.tokens);
  into->set_config(meta.config);
  into->set_mesh(meta.mesh);
  into->set_version(meta.version);
  for (const auto& [key, value] : meta.notes) {
    manifest::Note* note = into->add_notes();
    note->set_key(key);
    note->set_value(value);
  }
}

void put(const FileEntry& file, manifest::File* into) {
  into->set_name(file.name);
  into->set_bytes(file.bytes);
  into->set_header_bytes(file.header_bytes);
  into->mutable_checksums()->Add(file.checksums.begin(), file.checksums.end());
}

void put(const TensorEntry& tensor, manifest::Tensor* into) {
  into->set_name(tensor.name);
  into->set_dtype(safetensors_name(tensor.dtype));
  put(tensor.shape, into->mutable_shape());
  for (const StoredBox& box : tensor.boxes) {
    manifest::Box* to = into->add_boxes();
    to->set_file(static_cast<uint32_t>(box.file));
    to->set_offset(box.offset);
    put(box.region.start, to->mutable_start());
    put(box.region.extent, to->mutable_extent());
  }
}

CheckpointMeta take(const manifest::Meta& from) {
  CheckpointMeta meta{
      .step = from.step(), .tokens = from.tokens(), .config = from.config(), .mesh = from.mesh(), .version = from.version()};
  for (const manifest::Note& note : from.notes()) meta.notes[note.key()] = note.value();
  return meta;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

FileEntry take(const manifest::File& from, const std::string& source) {
  FileEntry file{.name = from.name(),
                 .bytes = from.bytes(),
                 .header_bytes = from.header_bytes(),
                 .checksums = {from.checksums().begin(), from.checksums().end()}};
  if (!is_plain_name(file.name)) throw CheckpointError("{}: \"{}\" is no file name", source, file.name);
  if (file.bytes < 0 || file.header_bytes < 0 || file.header_bytes > file.bytes ||
      static_cast<int64_t>(file.checksums.size()) != piece_count(file.bytes))
    throw CheckpointError("{}: file {}: {} bytes, {} of them header, and {} checksums do not fit each other", source, file.name, file.bytes,
                          file.header_bytes, file.checksums.size());
  return file;
}

// Extents or a place in `tensor`, none below `least`.
template <class Repeated>
Shape take(const Repeated& numbers, int64_t least, const std::string& tensor, const std::string& source) {
  const Shape shape(numbers.data(), std::min(numbers.size(), +Shape::kMaxRank));
  if (numbers.empty() || numbers.size() > Shape::kMaxRank || std::any_of(shape.begin(), shape.end(), [&](int64_t n) { return n < least; }))
    throw CheckpointError("{}: tensor {}: {} ({} dims) is no shape or place", source, tensor, shape, numbers.size());
  return shape;
}

StoredBox take(const manifest::Box& from, const TensorEntry& tensor, const std::vector<FileEntry>& files, const std::string& source) {
  StoredBox box{.file = static_cast<int>(std::min<uint32_t>(from.file(), std::numeric_limits<int>::max())),
                .offset = from.offset(),
                .region = {take(from.start(), 0, tensor.name, source), take(from.extent(), 1, tensor.name, source)}};
  const int rank = tensor.shape.rank();
  bool fits = box.region.start.rank() == rank && box.region.extent.rank() == rank && box.file < static_cast<int>(files.size());
  for (int d = 0; fits && d < rank; ++d)
    fits = box.region.extent[d] <= tensor.shape[d] && box.region.start[d] <= tensor.shape[d] - box.region.extent[d];
  if (fits) {
    const FileEntry& file = files[box.file];
    const int64_t bytes = box.region.numel() * static_cast<int64_t>(size_of(tensor.dtype));
    fits = box.offset >= file.header_bytes && bytes <= file.bytes && box.offset <= file.bytes - bytes;
  }
  if (!fits) throw CheckpointError("{}: tensor {} {}: a box does not lie inside it or inside a file", source, tensor.name, tensor.shape);
  return box;
}

TensorEntry take(const manifest::Tensor& from, const std::vector<FileEntry>& files, const std::string& source) {
  if (from.name().empty()) throw CheckpointError("{}: a tensor has no name", source);
  TensorEntry tensor{.name = from.name(), .shape = take(from.shape(), 1, from.name(), source)};
  const auto dtype = dtype_of_safetensors(from.dtype());
  if (!dtype) throw CheckpointError("{}: tensor {}: unknown dtype \"{}\"", source, tensor.name, from.dtype());
  tensor.dtype = *dtype;
  if (!bytes_of(tensor.shape, tensor.dtype)) throw CheckpointError("{}: tensor {}: {} is too large", source, tensor.name, tensor.shape);
  for (const manifest::Box& box : from.boxes()) tensor.boxes.push_back(take(box, tensor, files, source));
  return tensor;
}

void check_tiling(const TensorEntry& tensor, const std::vector<FileEntry>& files, const std::string& source) {
  std::vector<StoredBox> boxes = tensor.boxes;
  std::sort(boxes.begin(), boxes.end(), [](const auto& a, const auto& b) { return a.region.start[0] < b.region.start[0]; });
  int64_t covered = 0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Region& region = boxes[i].region;
    const int64_t end = region.start[0] + region.extent[0];
    for (size_t j = i + 1; j < boxes.size() && boxes[j].region.start[0] < end; ++j)
      if (overlap(region, boxes[j].region))
        throw CheckpointError("{}: tensor {} {}: expected every element in one box, found {} of {} and {} of {} to overlap", source,
                              tensor.name, tensor.shape, region.to_string(), files[boxes[i].file].name, boxes[j].region.to_string(),
                              files[boxes[j].file].name);
    covered += region.numel();
  }
  if (covered != tensor.shape.numel())
    throw CheckpointError("{}: tensor {} {}: expected every element in one box, found {} of {} elements in {} boxes", source, tensor.name,
                          tensor.shape, covered, tensor.shape.numel(), boxes.size());
}

Manifest parse(const std::string& content, const std::string& path) {
  if (content.size() < kHeaderBytes || content.compare(0, kMagic.size() - 1, kMagic.substr(0, kMagic.size() - 1)) != 0)
    throw CheckpointError("{}: is no manifest of a checkpoint ({} bytes), or is damaged", path, content.size());
  if (content[kMagic.size() - 1] != kMagic.back())
    throw CheckpointError("{}: format: expected version {:d}, found {:d}", path, kMagic.back(),
                          static_cast<unsigned char>(content[kMagic.size() - 1]));
  uint64_t expected = 0;
  std::memcpy(&expected, content.data() + kMagic.size(), sizeof expected);
  const std::string payload = content.substr(kHeaderBytes);
  if (checksum(payload) != expected)
    throw CheckpointError("{}: checksum of the manifest: expected {:016x}, found {:016x}", path, expected, checksum(payload));
  Manifest manifest = decode(payload, path);
  check_tiling(manifest, path);
  return manifest;
}

}  // namespace

std::string encode(const Manifest& manifest) {
  manifest::Manifest message;
  put(manifest.meta, message.mutable_meta());
  for (const FileEntry& file : manifest.files) put(file, message.add_files());
  for (const TensorEntry& tensor : manifest.tensors) put(tensor, message.add_tensors());
  return message.SerializeAsString();
}

Manifest decode(const std::string& payload, const std::string& source) {
  manifest::Manifest message;
  if (payload.size() > std::numeric_limits<int>::max() || !message.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    throw CheckpointError("{}: is no table of tensors", source);
  Manifest manifest{.meta = take(message.meta())};
  for (const manifest::File& file : message.files()) manifest.files.push_back(take(file, source));
  for (const manifest::Tensor& tensor : message.tensors()) {
    manifest.tensors.push_back(take(tensor, manifest.files, source));
    const size_t count = manifest.tensors.size();
    if (count > 1 && manifest.tensors[count - 2].name >= manifest.tensors[count - 1].name)
      throw CheckpointError("{}: tensor {} is out of order", source, manifest.tensors.back().name);
  }
  return manifest;
}

void check_tiling(const Manifest& manifest, const std::string& source) {
  for (const TensorEntry& tensor : manifest.tensors) check_tiling(tensor, manifest.files, source);
}

void write_manifest(const std::string& folder, const Manifest& manifest) {
  const std::string payload = encode(manifest);
  const uint64_t sum = checksum(payload);
  std::string content(kMagic);
  content.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  write_durably(folder + "/" + kManifestName, content + payload);
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  try {
    return parse(read_file(path), path);
  } catch (const CheckpointError& error) {
    throw CheckpointError("{}; {}", error.what(), way_out(folder));
  }
}

}  // namespace ropewalk
