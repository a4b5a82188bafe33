// Linked into the program in place of two functions (the linker's --wrap), to make a rank fail at a chosen place: failing_ropewalk.
//
// ROPEWALK_FAIL="RANK HOW PLACE N": when that rank comes to the place for the N-th time it gets the signal KILL or STOP, or the thread that
// came there hangs (HANG). A place is the label of an operation between ranks, or the name of a file that is written.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "parallel/comm/mpi/lookout.h"

namespace ropewalk {
namespace {

struct Failure {
  int rank = -1;
  std::string how, place;
  int number = 0;
};

Failure chosen() {
  Failure failure;
  if (const char* const text = std::getenv("ROPEWALK_FAIL"))
    std::istringstream(text) >> failure.rank >> failure.how >> failure.place >> failure.number;
  const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (!rank || std::atoi(rank) != failure.rank) failure.place.clear();
  return failure;
}

void come_to(const std::string& place) {
  static const Failure failure = chosen();
  static std::atomic<int> visits = 0;
  if (place != failure.place || ++visits != failure.number) return;
  if (failure.how == "KILL") raise(SIGKILL);
  if (failure.how == "STOP") raise(SIGSTOP);
  while (failure.how == "HANG") pause();
}

std::string file_behind(int descriptor) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), error).filename();
}

}  // namespace

extern "C" {

void __real__ZN8ropewalk7Lookout7startedERKNS_11DescriptionE(Lookout*, const Description&);
void __wrap__ZN8ropewalk7Lookout7startedERKNS_11DescriptionE(Lookout* lookout, const Description& what) {
  __real__ZN8ropewalk7Lookout7startedERKNS_11DescriptionE(lookout, what);
  come_to(what.label);
}

ssize_t __real_write(int, const void*, size_t);
ssize_t __wrap_write(int descriptor, const void* bytes, size_t count) {
  come_to(file_behind(descriptor));
  return __real_write(descriptor, bytes, count);
}

}  // extern "C"

}  // namespace ropewalk
