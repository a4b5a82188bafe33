#include "data/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "data/error.h"

namespace ropewalk {
namespace {
constexpr size_t kBuffer = 1 << 20;
}

OutputFile::OutputFile(const std::string& path)
    : path_(path), partial_(path + ".partial"), descriptor_(open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail();
}

OutputFile::~OutputFile() {
  close(descriptor_);
  if (!published_) unlink(partial_.c_str());
}

void OutputFile::write(const void* bytes, size_t count) {
  buffer_.append(static_cast<const char*>(bytes), count);
  if (buffer_.size() >= kBuffer) flush();
}

void OutputFile::flush() {
  for (size_t at = 0; at < buffer_.size();) {
    const ssize_t written = ::write(descriptor_, buffer_.data() + at, buffer_.size() - at);
    if (written < 0 && errno != EINTR) fail();
    if (written > 0) at += static_cast<size_t>(written);
  }
  buffer_.clear();
}

void OutputFile::sync() {
  flush();
  if (fsync(descriptor_) != 0) fail();
}

void OutputFile::publish() {
  if (rename(partial_.c_str(), path_.c_str()) != 0) fail();
  published_ = true;
}

void OutputFile::fail() const { throw DataError(fmt::format("{}: cannot be written: {}", path_, std::strerror(errno))); }

}  // namespace ropewalk
