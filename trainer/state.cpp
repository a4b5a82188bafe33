#include "trainer/state.h"

namespace ropewalk {
namespace {

Box box(const std::string& prefix, const PlacedPart& part, const Tensor& flat) {
  return {.tensor = prefix + part.spec.name,
          .global = part.spec.shape,
          .start = part.start,
          .extent = part.extent,
          .data = ParameterStore::span(flat, part).reshape(part.extent)};
}

Box box(const Buffer& buffer) {
  const Shape& shape = buffer.shape;
  Shape start = shape;
  for (int d = 0; d < shape.rank(); ++d) start[d] = 0;
  return {.tensor = "buffers/" + buffer.name, .global = shape, .start = start, .extent = shape, .data = buffer.value};
}

std::string prefix_of(const std::string& moment) { return "optimizer/" + moment + "/"; }

void load(CheckpointReader& reader, const std::string& prefix, const ParameterStore& store, const Tensor& flat) {
  for (const PlacedPart& part : store.parts())
    if (part.numel() > 0) reader.read(box(prefix, part, flat));
}

}  // namespace

std::vector<Box> boxes_to_save(const ParameterStore& store, const Optimizer& optimizer) {
  std::vector<Box> boxes;
  for (const PlacedPart& part : store.parts()) {
    if (!part.counted || part.numel() == 0) continue;
    boxes.push_back(box("weights/", part, store.master()));
    for (const auto& [moment, flat] : optimizer.state()) boxes.push_back(box(prefix_of(moment), part, flat));
  }
  for (const PlacedBuffer& placed : store.buffers())
    if (placed.counted) boxes.push_back(box(*placed.buffer));
  return boxes;
}

void load_weights(CheckpointReader& reader, const ParameterStore& store) {
  load(reader, "weights/", store, store.master());
  store.refresh_working();
  for (const PlacedBuffer& placed : store.buffers())
    if (const Box whole = box(*placed.buffer); reader.has(whole.tensor)) reader.read(whole);
}

void load_optimizer(CheckpointReader& reader, const ParameterStore& store, Optimizer& optimizer) {
  for (const auto& [moment, flat] : optimizer.state()) load(reader, prefix_of(moment), store, flat);
}

std::string weights_digest(CheckpointReader& reader) { return reader.digest({"weights/", "buffers/"}); }
std::string optimizer_digest(CheckpointReader& reader) { return reader.digest({"optimizer/"}); }

}  // namespace ropewalk
