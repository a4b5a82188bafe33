#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace ropewalk {

// A whole file, mapped to read; ranks of one host share its pages. Throws DataError where it cannot be read.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace ropewalk
