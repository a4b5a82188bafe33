// Reads boxes out of a checkpoint, whatever boxes it was written as.
#pragma once

#include "trainer/checkpoint/manifest.h"

namespace ropewalk {

class CheckpointReader {
 public:
  // Reads and checks the manifest. Shards are opened when something is read from them.
  explicit CheckpointReader(const std::string& folder);
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  const CheckpointMeta& meta() const { return manifest_.meta; }

  struct TensorInfo {
    std::string name;
    DType dtype;
    Shape shape;
    int boxes;
  };
  std::vector<TensorInfo> tensors() const;  // by name
  bool has(const std::string& tensor) const { return find(tensor) != nullptr; }

  // Fills into.data, whose dtype is the stored one, from all boxes that overlap. Checks each piece of a file the first time it is read.
  void read(const Box& into);
  // Reads every byte: sizes, checksums, and each shard's header against the manifest.
  void verify();
  // 32 hex digits over the tensors whose name starts with one of `prefixes`: names, dtypes, shapes and elements, however they were cut into
  // boxes.
  std::string digest(const std::vector<std::string>& prefixes);

 private:
  const TensorEntry* find(const std::string& tensor) const;
  void copy(const TensorEntry& tensor, const StoredBox& box, const Box& into);
  void verify_header(int file);
  std::string describe(int file, int64_t begin, int64_t end) const;
  [[noreturn]] void refuse(const std::string& why) const;

  std::string folder_;
  Manifest manifest_;
  PieceReader pieces_;
};

}  // namespace ropewalk
