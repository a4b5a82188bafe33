#pragma once

#include <cstdint>
#include <string>

namespace ropewalk {

// A file that is there whole or not at all: written beside its place as PATH.partial, and renamed when it is finished. Throws DataError
// where the system refuses.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  ~OutputFile();  // removes what was not published
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* bytes, size_t count);
  void sync();  // returns when all of it is on the disk; nothing is written after it
  void publish();

 private:
  void flush();
  [[noreturn]] void fail() const;

  std::string path_, partial_, buffer_;
  int descriptor_;
  bool published_ = false;
};

}  // namespace ropewalk
