// Files on disk. What the system refuses is a CheckpointError that names the path.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/checkpoint/checkpoint_error.h"

namespace ropewalk {

class File {
 public:
  static File create(const std::string& path);  // an existing one is emptied
  static File open(const std::string& path);    // to read
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  int64_t size() const;
  void append(const void* bytes, int64_t count);
  void read(void* into, int64_t offset, int64_t count) const;
  void sync();  // returns when the bytes are on the disk

 private:
  File(std::string path, int flags, const char* doing);

  std::string path_;
  int descriptor_;
};

std::string read_file(const std::string& path);
void write_durably(const std::string& path, std::string_view content);

bool exists(const std::string& path);       // throws where the system does not say
void make_folder(const std::string& path);  // with its parents; an existing one is fine
void sync_folder(const std::string& path);  // returns when what was made, renamed or removed in it is on the disk
void rename_path(const std::string& from, const std::string& to);
void remove_path(const std::string& path);  // a file or a whole folder; one that does not exist is fine

}  // namespace ropewalk
