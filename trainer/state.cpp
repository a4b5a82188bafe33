#include "trainer/state.h"

namespace ropewalk {
namespace {

// What this rank owns of a part, as boxes of the global tensor; `owned` holds it, flat.
std::vector<Box> boxes(const std::string& prefix, const PlacedPart& part, const Tensor& owned) {
  std::vector<Box> boxes;
  int64_t at = 0;
  for (const Region& region : regions_of_range(part.extent, part.owned.begin, part.owned.begin + part.owned.length)) {
    Shape start = part.start;
    for (int d = 0; d < start.rank(); ++d) start[d] += region.start[d];
    boxes.push_back({.tensor = prefix + part.spec.name,
                     .global = part.spec.shape,
                     .start = start,
                     .extent = region.extent,
                     .data = owned.narrow(0, at, region.numel()).reshape(region.extent)});
    at += region.numel();
  }
  return boxes;
}

Box box(const Buffer& buffer) {
  const Shape& shape = buffer.shape;
  Shape start = shape;
  for (int d = 0; d < shape.rank(); ++d) start[d] = 0;
  return {.tensor = "buffers/" + buffer.name, .global = shape, .start = start, .extent = shape, .data = buffer.value};
}

std::string prefix_of(const std::string& moment) { return "optimizer/" + moment + "/"; }

void load(CheckpointReader& reader, const std::vector<Box>& boxes) {
  for (const Box& box : boxes) reader.read(box);
}

}  // namespace

std::vector<Box> boxes_to_save(const ParameterStore& store, const Optimizer& optimizer) {
  std::vector<Box> all;
  const auto add = [&](const std::vector<Box>& more) { all.insert(all.end(), more.begin(), more.end()); };
  for (const PlacedPart& part : store.parts()) {
    if (!part.counted) continue;
    add(boxes("weights/", part, store.master(part)));
    for (const auto& [moment, flat] : optimizer.state()) add(boxes(prefix_of(moment), part, ParameterStore::span(flat, part)));
  }
  for (const PlacedBuffer& placed : store.buffers())
    if (placed.counted) all.push_back(box(*placed.buffer));
  return all;
}

void load_weights(CheckpointReader& reader, const ParameterStore& store) {
  for (const PlacedPart& part : store.parts()) load(reader, boxes("weights/", part, store.master(part)));
  store.round_masters();
  for (const PlacedBuffer& placed : store.buffers())
    if (const Box whole = box(*placed.buffer); reader.has(whole.tensor)) reader.read(whole);
}

void load_optimizer(CheckpointReader& reader, const ParameterStore& store, Optimizer& optimizer) {
  for (const auto& [moment, flat] : optimizer.state())
    for (const PlacedPart& part : store.parts()) load(reader, boxes(prefix_of(moment), part, ParameterStore::span(flat, part)));
}

std::string weights_digest(CheckpointReader& reader) { return reader.digest({"weights/", "buffers/"}); }
std::string optimizer_digest(CheckpointReader& reader) { return reader.digest({"optimizer/"}); }

}  // namespace ropewalk
