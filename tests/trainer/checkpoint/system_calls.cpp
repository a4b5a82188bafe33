#include "tests/trainer/checkpoint/system_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace ropewalk::testing {
namespace {

struct {
  bool on = false;
  Interruption interruption = Interruption::kNone;
  int number = 0;
  std::vector<std::string> calls;
} watch;

std::string path_of(int descriptor) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), error);
}

// True where the call must fail.
bool interrupted(const std::string& call) {
  if (!watch.on) return false;
  watch.calls.push_back(call);
  if (static_cast<int>(watch.calls.size()) != watch.number) return false;
  if (watch.interruption == Interruption::kKill) raise(SIGKILL);
  errno = ENOSPC;
  return watch.interruption == Interruption::kFail;
}

}  // namespace

void watch_system_calls(Interruption interruption, int number) { watch = {true, interruption, number, {}}; }

std::vector<std::string> watched_system_calls() {
  watch.on = false;
  return std::move(watch.calls);
}

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (interrupted(std::string("open ") + path)) return -1;
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  if (interrupted("write " + (watch.on ? path_of(descriptor) : ""))) return -1;
  return syscall(SYS_write, descriptor, bytes, count);
}

int fsync(int descriptor) {
  if (interrupted("fsync " + (watch.on ? path_of(descriptor) : ""))) return -1;
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

int rename(const char* from, const char* to) noexcept {
  if (interrupted(std::string("rename ") + from + " " + to)) return -1;
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int mkdir(const char* path, mode_t mode) noexcept {
  if (interrupted(std::string("mkdir ") + path)) return -1;
  return static_cast<int>(syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int unlinkat(int folder, const char* path, int flags) noexcept {
  if (interrupted(std::string("unlinkat ") + path)) return -1;
  return static_cast<int>(syscall(SYS_unlinkat, folder, path, flags));
}

}  // extern "C"

}  // namespace ropewalk::testing
