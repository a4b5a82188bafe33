#include "trainer/checkpoint/checkpoint_reader.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/safetensors.h"

namespace ropewalk {
namespace {

constexpr int64_t kSlabBytes = int64_t{16} << 20;  // of a tensor, gathered at a time for the digest

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

class Digest {
 public:
  Digest() : state_(XXH3_createState(), XXH3_freeState) { XXH3_128bits_reset(state_.get()); }
  void add(const void* bytes, int64_t count) { XXH3_128bits_update(state_.get(), bytes, static_cast<size_t>(count)); }
  void add(int64_t number) { add(&number, sizeof number); }
  void add(const std::string& text) {
    add(static_cast<int64_t>(text.size()));
    add(text.data(), static_cast<int64_t>(text.size()));
  }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

}  // namespace

CheckpointReader::CheckpointReader(const std::string& folder)
    : folder_(without_slash(folder)),
      manifest_(read_manifest(folder_)),
      pieces_(folder_, manifest_.files, [this](int file, int64_t begin, int64_t end) { return describe(file, begin, end); }) {}

std::vector<CheckpointReader::TensorInfo> CheckpointReader::tensors() const {
  std::vector<TensorInfo> infos;
  for (const TensorEntry& t : manifest_.tensors) infos.push_back({t.name, t.dtype, t.shape, static_cast<int>(t.boxes.size())});
  return infos;
}

const TensorEntry* CheckpointReader::find(const std::string& tensor) const {
  const auto found = std::lower_bound(manifest_.tensors.begin(), manifest_.tensors.end(), tensor,
                                      [](const TensorEntry& entry, const std::string& name) { return entry.name < name; });
  return found != manifest_.tensors.end() && found->name == tensor ? &*found : nullptr;
}

void CheckpointReader::read(const Box& into) {
  check_box(into);
  const TensorEntry* tensor = find(into.tensor);
  if (!tensor || tensor->dtype != into.data.dtype() || !(tensor->shape == into.global))
    throw CheckpointError("{}: tensor {}: expected {} {}, found {}; name a checkpoint of this model by run.resume=PATH", folder_,
                          into.tensor, into.data.dtype(), into.global,
                          tensor ? fmt::format("{} {}", tensor->dtype, tensor->shape) : "none of that name");
  Box here = into;
  if (into.data.device().is_cuda()) here.data = Tensor::empty(into.data.shape(), into.data.dtype());
  for (const StoredBox& box : tensor->boxes) copy(*tensor, box, here);
  if (into.data.device().is_cuda()) into.data.copy_from(here.data);
}

void CheckpointReader::copy(const TensorEntry& tensor, const StoredBox& box, const Box& into) {
  const int64_t width = static_cast<int64_t>(size_of(tensor.dtype));
  char* const target = static_cast<char*>(into.data.raw());
  for_each_stretch(box.region, into.region(), [&](const Stretch& stretch) {
    for (int64_t done = 0; done < stretch.length * width;) {
      const std::string_view bytes = pieces_.at(box.file, box.offset + stretch.from * width + done, stretch.length * width - done);
      std::memcpy(target + stretch.to * width + done, bytes.data(), bytes.size());
      done += static_cast<int64_t>(bytes.size());
    }
  });
}

void CheckpointReader::verify() {
  for (int file = 0; file < static_cast<int>(manifest_.files.size()); ++file) {
    pieces_.verify(file);
    verify_header(file);
  }
}

// A shard's header says the same as the manifest, so that a tool that opens the shard alone sees the same tensors.
void CheckpointReader::verify_header(int file) {
  std::vector<SafetensorsEntry> expected;
  for (const TensorEntry& t : manifest_.tensors)
    for (const StoredBox& box : t.boxes)
      if (box.file == file) expected.push_back({part_name(t.name, t.shape, box.region), t.dtype, box.region.extent, box.offset});
  std::sort(expected.begin(), expected.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });

  const FileEntry& entry = manifest_.files[file];
  const auto read = [&](int64_t offset, int64_t count) { return pieces_.copy(file, offset, count); };
  const SafetensorsHeader header = parse_safetensors(entry.bytes, read, folder_ + "/" + entry.name);
  if (header.bytes == entry.header_bytes && header.entries == expected) return;
  const auto [found, wanted] = std::mismatch(header.entries.begin(), header.entries.end(), expected.begin(), expected.end());
  refuse(fmt::format("{}: header: expected {} (manifest), found {}", entry.name,
                     wanted == expected.end() ? "no more tensors" : wanted->name,
                     found == header.entries.end() ? "no more tensors" : found->name));
}

std::string CheckpointReader::digest(const std::vector<std::string>& prefixes) {
  Digest digest;
  for (const TensorEntry& t : manifest_.tensors) {
    const auto begins_it = [&](const std::string& prefix) { return t.name.starts_with(prefix); };
    if (std::none_of(prefixes.begin(), prefixes.end(), begins_it)) continue;
    digest.add(t.name);
    digest.add(safetensors_name(t.dtype));
    digest.add(t.shape.to_string());
    for_each_slab(t.shape, kSlabBytes / static_cast<int64_t>(size_of(t.dtype)), [&](const Region& slab) {
      const Tensor data = Tensor::empty(slab.extent, t.dtype);
      read({t.name, t.shape, slab.start, slab.extent, data});
      digest.add(data.raw(), data.bytes());
    });
  }
  return digest.hex();
}

std::string CheckpointReader::describe(int file, int64_t begin, int64_t end) const {
  std::map<int64_t, std::string> held;  // by offset
  std::set<std::string> names;
  for (const TensorEntry& t : manifest_.tensors)
    for (const StoredBox& box : t.boxes)
      if (box.file == file && box.offset < end && box.offset + box.region.numel() * static_cast<int64_t>(size_of(t.dtype)) > begin) {
        held[box.offset] = t.name;
        names.insert(t.name);
      }
  std::string text = begin < manifest_.files[file].header_bytes ? "the header" : "";
  if (held.empty()) return text;
  text += fmt::format("{}tensor {}", text.empty() ? "" : " and ", held.begin()->second);
  return names.size() == 1 ? text : fmt::format("{} and {} more", text, names.size() - 1);
}

void CheckpointReader::refuse(const std::string& why) const { throw CheckpointError("{}: {}; {}", folder_, why, way_out(folder_)); }

}  // namespace ropewalk
