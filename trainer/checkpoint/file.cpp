#include "trainer/checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace ropewalk {
namespace {

[[noreturn]] void refuse(const std::string& path, const char* doing, const std::error_code& error) {
  throw CheckpointError("{}: cannot {}: {}", path, doing, error.message());
}
[[noreturn]] void refuse(const std::string& path, const char* doing) { refuse(path, doing, {errno, std::generic_category()}); }

// A signal may interrupt a slow file system: the call is made again.
template <class Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace

File::File(std::string path, int flags, const char* doing)
    : path_(std::move(path)), descriptor_(uninterrupted([&] { return ::open(path_.c_str(), flags | O_CLOEXEC, 0666); })) {
  if (descriptor_ < 0) refuse(path_, doing);
}

File File::create(const std::string& path) { return File(path, O_WRONLY | O_CREAT | O_TRUNC, "create"); }
File File::open(const std::string& path) { return File(path, O_RDONLY, "open"); }
File::File(File&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t File::size() const {
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) refuse(path_, "read");
  return status.st_size;
}

void File::append(const void* bytes, int64_t count) {
  for (int64_t done = 0; done < count;) {
    const auto* from = static_cast<const char*>(bytes) + done;
    const ssize_t written = uninterrupted([&] { return ::write(descriptor_, from, static_cast<size_t>(count - done)); });
    if (written < 0) refuse(path_, "write");
    done += written;
  }
}

void File::read(void* into, int64_t offset, int64_t count) const {
  for (int64_t done = 0; done < count;) {
    auto* to = static_cast<char*>(into) + done;
    const ssize_t got = uninterrupted([&] { return ::pread(descriptor_, to, static_cast<size_t>(count - done), offset + done); });
    if (got < 0) refuse(path_, "read");
    if (got == 0) throw CheckpointError("{}: expected {} bytes, found {}", path_, offset + count, offset + done);
    done += got;
  }
}

void File::sync() {
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) refuse(path_, "flush");
}

std::string read_file(const std::string& path) {
  const File file = File::open(path);
  std::string content(static_cast<size_t>(file.size()), '\0');
  file.read(content.data(), 0, static_cast<int64_t>(content.size()));
  return content;
}

void write_durably(const std::string& path, std::string_view content) {
  File file = File::create(path);
  file.append(content.data(), static_cast<int64_t>(content.size()));
  file.sync();
}

bool exists(const std::string& path) {
  std::error_code error;
  const bool found = std::filesystem::exists(path, error);
  if (error) refuse(path, "look up", error);
  return found;
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) refuse(path, "make the folder", error);
}

void sync_folder(const std::string& path) {
  const int descriptor = uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (descriptor < 0) refuse(path, "open");
  const int result = uninterrupted([&] { return ::fsync(descriptor); });
  const int error = errno;
  ::close(descriptor);
  if (result == 0 || error == EINVAL) return;  // EINVAL: a file system that cannot flush folders, as some across a network
  refuse(path, "flush", {error, std::generic_category()});
}

void rename_path(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) throw CheckpointError("{}: cannot rename {} to it: {}", to, from, error.message());
}

void remove_path(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) refuse(path, "remove", error);
}

}  // namespace ropewalk
