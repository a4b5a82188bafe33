#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/error.h"

namespace ropewalk {
namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : value_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return value_; }

 private:
  int value_;
};

DataError unreadable(const std::string& path, int reason) {
  return DataError(fmt::format("{}: cannot be read: {}", path, std::strerror(reason)));
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(path);
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) throw unreadable(path, errno);
  if (!S_ISREG(status.st_mode)) throw unreadable(path, EISDIR);
  if (status.st_size == 0) return;  // what cannot be mapped
  const auto size = static_cast<size_t>(status.st_size);
  const void* begin = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  if (begin == MAP_FAILED) throw unreadable(path, errno);
  bytes_ = {static_cast<const std::byte*>(begin), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace ropewalk
