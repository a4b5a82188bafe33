// Files under checksums: one XXH3-64 for each piece of 4 MiB, over the whole file.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint/file.h"

namespace ropewalk {

constexpr int64_t kPieceBytes = int64_t{4} << 20;
inline int64_t piece_count(int64_t bytes) { return bytes / kPieceBytes + (bytes % kPieceBytes != 0); }
uint64_t checksum(std::string_view bytes);

struct FileEntry {
  std::string name;
  int64_t bytes = 0;
  int64_t header_bytes = 0;  // before the first tensor
  std::vector<uint64_t> checksums{};
};

// Writes front to back, in writes of whole pieces.
class PieceWriter {
 public:
  explicit PieceWriter(const std::string& path) : file_(File::create(path)) {}
  void append(std::string_view bytes);
  // Flushes to disk. The entry has bytes and checksums.
  FileEntry finish();

 private:
  void write_piece(std::string_view piece);

  File file_;
  std::string tail_;  // the piece that is not full yet
  FileEntry entry_;
};

// Reads files of one folder and lets no byte out before its piece's checksum was found right. The bytes are read, not mapped: a disk
// that fails under a mapping would end the process by a signal and name nothing.
class PieceReader {
 public:
  // Says in words what the bytes [begin, end) of a file hold.
  using Describe = std::function<std::string(int file, int64_t begin, int64_t end)>;
  // `files` stays with the caller.
  PieceReader(std::string folder, const std::vector<FileEntry>& files, Describe describe);

  // The bytes of a file from `offset` on: `count` of them or fewer, never none. Valid until the next call.
  std::string_view at(int file, int64_t offset, int64_t count);
  // Exactly the bytes [offset, offset + count).
  std::string copy(int file, int64_t offset, int64_t count);
  // The size and every piece of a file, also those that were found right before.
  void verify(int file);

 private:
  const File& open(int file);
  void check_header(int file);
  void load(int file, int64_t offset, int64_t count);
  void load_piece(int file, int64_t piece);
  void fill(int file, int64_t begin, int64_t end);
  [[noreturn]] void refuse(int file, int64_t begin, int64_t end, const std::string& why) const;
  std::string path(int file) const { return folder_ + "/" + files_[file].name; }

  std::string folder_;
  const std::vector<FileEntry>& files_;
  Describe describe_;
  std::vector<std::vector<bool>> checked_;  // by file and piece
  std::map<int, File> open_;
  std::vector<char> buffer_;  // the bytes [begin_, end_) of file held_
  int held_ = -1;
  int64_t begin_ = 0, end_ = 0;
};

}  // namespace ropewalk
