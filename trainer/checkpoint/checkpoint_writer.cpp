#include "trainer/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "kernels/tensor/parallel_for.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/safetensors.h"

namespace ropewalk {
namespace {

using Entries = std::map<std::string, TensorEntry>;

void add(Entries& entries, const TensorEntry& tensor) {
  TensorEntry& entry = entries.try_emplace(tensor.name, TensorEntry{tensor.name, tensor.dtype, tensor.shape}).first->second;
  if (entry.dtype != tensor.dtype || !(entry.shape == tensor.shape))
    throw CheckpointError("checkpoint: tensor {}: expected the same dtype and shape in all boxes, given {} {} and {} {}", tensor.name,
                          entry.dtype, entry.shape, tensor.dtype, tensor.shape);
  entry.boxes.insert(entry.boxes.end(), tensor.boxes.begin(), tensor.boxes.end());
}

void take(Manifest& manifest, Entries&& entries) {
  for (auto& [name, entry] : entries) manifest.tensors.push_back(std::move(entry));
}

// Wide elements first keeps every tensor in the file aligned to its element; by name makes reading in order of names sequential.
std::vector<const Box*> in_file_order(const std::vector<Box>& boxes) {
  std::vector<const Box*> order;
  for (const Box& box : boxes) {
    check_box(box);
    if (box.data.numel() > 0) order.push_back(&box);
  }
  std::stable_sort(order.begin(), order.end(), [](const Box* a, const Box* b) {
    const size_t width_a = size_of(a->data.dtype()), width_b = size_of(b->data.dtype());
    return std::tie(width_b, a->tensor) < std::tie(width_a, b->tensor);
  });
  return order;
}

// Writes this rank's shard and returns its table: a manifest of one file, or of none for a rank that owns nothing.
Manifest write_shard(const std::string& folder, const std::string& name, const CheckpointMeta& meta, const std::vector<Box>& mine,
                     Deadline& deadline) {
  const std::vector<const Box*> boxes = in_file_order(mine);
  Manifest table;
  if (boxes.empty()) return table;

  SafetensorsHeader header{.metadata = {{"program", "ropewalk " + meta.version}, {"step", std::to_string(meta.step)}}};
  for (const Box* box : boxes)
    header.entries.push_back({part_name(box->tensor, box->global, box->region()), box->data.dtype(), box->extent});
  PieceWriter file(folder + "/" + name);
  file.append(lay_out_safetensors(header));
  Entries entries;
  for (size_t i = 0; i < boxes.size(); ++i) {
    deadline.extend();
    const Box& box = *boxes[i];
    const Tensor data = box.data.to(Device());
    file.append({static_cast<const char*>(data.raw()), static_cast<size_t>(data.bytes())});
    add(entries, {box.tensor, box.data.dtype(), box.global, {{.file = 0, .offset = header.entries[i].offset, .region = box.region()}}});
  }
  deadline.extend();
  table.files.push_back(file.finish());
  table.files[0].name = name;
  table.files[0].header_bytes = header.bytes;
  take(table, std::move(entries));
  return table;
}

// Every rank's text, by rank, on rank 0; elsewhere nothing.
std::vector<std::string> gather_texts(const std::string& mine, const Group& all) {
  const std::vector<double> sizes = all.gather(static_cast<double>(mine.size()), "checkpoint.table");
  if (all.rank() != 0) {
    const Tensor bytes = Tensor::empty({static_cast<int64_t>(mine.size())}, DType::kUInt8);
    std::memcpy(bytes.raw(), mine.data(), mine.size());
    all.send(bytes, 0, "checkpoint.table");
    return {};
  }
  std::vector<std::string> texts{mine};
  for (int rank = 1; rank < all.size(); ++rank) {
    const Tensor bytes = all.receive({static_cast<int64_t>(sizes[rank])}, DType::kUInt8, rank, "checkpoint.table");
    texts.emplace_back(static_cast<const char*>(bytes.raw()), static_cast<size_t>(bytes.numel()));
  }
  return texts;
}

Manifest merge(const std::vector<std::string>& tables, const CheckpointMeta& meta) {
  Manifest manifest{.meta = meta};
  Entries entries;
  for (size_t rank = 0; rank < tables.size(); ++rank) {
    Manifest table = decode(tables[rank], fmt::format("checkpoint: table of rank {}", rank));
    for (TensorEntry& tensor : table.tensors) {
      for (StoredBox& box : tensor.boxes) box.file += static_cast<int>(manifest.files.size());
      add(entries, tensor);
    }
    manifest.files.insert(manifest.files.end(), table.files.begin(), table.files.end());
  }
  take(manifest, std::move(entries));
  return manifest;
}

// Also what the library throws (no memory, a name that is no UTF-8) must reach the other ranks.
void agree_on(const Group& all, const char* label, const std::function<void()>& body) {
  const auto translated = [&] {
    try {
      body();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw CheckpointError("checkpoint: cannot be written: {}", error.what());
    }
  };
  agree(all, translated, label);
}

void start_folder(const std::string& root, int64_t step, const Group& all) {
  agree_on(all, "checkpoint.begin", [&] {
    if (all.rank() == 0) start_checkpoint(root, step);
  });
}

// A disk that hangs may hang for all ranks at once, when none waits for another.
std::string write_table(const std::string& root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all) {
  Deadline deadline = all.deadline("checkpoint.write");
  return encode(write_shard(partial_checkpoint(root, meta.step), fmt::format("shard-{:05}.safetensors", all.rank()), meta, mine, deadline));
}

// From the tables of the shards to a checkpoint.
void publish(const std::string& root, const CheckpointMeta& meta, const std::string& table, const Group& all) {
  const std::vector<std::string> tables = gather_texts(table, all);
  agree_on(all, "checkpoint.publish", [&] {
    if (all.rank() != 0) return;
    const Deadline deadline = all.deadline("checkpoint.publish");
    const Manifest manifest = merge(tables, meta);
    const std::string partial = partial_checkpoint(root, meta.step);
    check_tiling(manifest, partial);
    write_manifest(partial, manifest);
    publish_checkpoint(root, meta.step);
  });
}

// Where body fails, the folder that it was to fill goes.
std::string complete_or_nothing(const std::string& root, int64_t step, const Group& all, const std::function<void()>& body) {
  try {
    body();
    return root + "/" + checkpoint_name(step);
  } catch (const Error&) {
    if (all.rank() == 0) discard_checkpoint(root, step);
    throw;
  }
}

// The same boxes in memory of their own. Large ones are cut, so that all threads copy.
std::vector<Box> copies_of(const std::vector<Box>& boxes) {
  constexpr int64_t kGrain = 1 << 20;
  struct Copy {
    char* to;
    const char* from;
    int64_t bytes;
  };
  std::vector<Box> copies = boxes;
  std::vector<Copy> pieces;
  for (size_t i = 0; i < boxes.size(); ++i) {
    check_box(boxes[i]);
    if (boxes[i].data.device().is_cuda()) {
      copies[i].data = boxes[i].data.to(Device());
      continue;
    }
    copies[i].data = empty_like(boxes[i].data);
    char* const to = static_cast<char*>(copies[i].data.raw());
    const char* const from = static_cast<const char*>(boxes[i].data.raw());
    for (int64_t at = 0; at < boxes[i].data.bytes(); at += kGrain)
      pieces.push_back({to + at, from + at, std::min(kGrain, boxes[i].data.bytes() - at)});
  }
  parallel_for(std::ssize(pieces), [&](int64_t i) { std::memcpy(pieces[i].to, pieces[i].from, static_cast<size_t>(pieces[i].bytes)); });
  return copies;
}

}  // namespace

std::string write_checkpoint(const std::string& root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all) {
  return complete_or_nothing(root, meta.step, all, [&] {
    start_folder(root, meta.step, all);
    std::string table;
    agree_on(all, "checkpoint.write", [&] { table = write_table(root, meta, mine, all); });
    publish(root, meta, table, all);
  });
}

CheckpointSave::CheckpointSave(std::string root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all)
    : root_(std::move(root)), meta_(meta), all_(all) {
  complete_or_nothing(root_, meta_.step, all_, [&] {
    start_folder(root_, meta_.step, all_);
    agree_on(all_, "checkpoint.copy", [&] { copies_ = copies_of(mine); });
  });
  thread_ = std::thread([this] {
    try {
      table_ = write_table(root_, meta_, copies_, all_);
    } catch (...) {
      failure_ = std::current_exception();
    }
    written_.store(true, std::memory_order_release);
  });
}

CheckpointSave::~CheckpointSave() {
  if (thread_.joinable()) thread_.join();
}

std::string CheckpointSave::finish() {
  thread_.join();
  copies_.clear();
  return complete_or_nothing(root_, meta_.step, all_, [&] {
    agree_on(all_, "checkpoint.write", [&] {
      if (failure_) std::rethrow_exception(failure_);
    });
    publish(root_, meta_, table_, all_);
  });
}

}  // namespace ropewalk
