#include "parallel/comm/mpi/shared_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace ropewalk {
namespace {

bool on_all(const Communicator& group, bool mine) {
  int here = mine ? 1 : 0, all = 0;
  return MPI_Allreduce(&here, &all, 1, MPI_INT, MPI_MIN, group.comm) == MPI_SUCCESS && all == 1;
}

// The first rank makes it; reserving the pages now turns a full /dev/shm into an answer instead of a SIGBUS later.
int make_segment(const std::string& name, int64_t bytes) {
  const int file = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file >= 0 && posix_fallocate(file, 0, bytes) == 0) return file;
  if (file >= 0) {
    close(file);
    shm_unlink(name.c_str());
  }
  return -1;
}

std::shared_ptr<void> mapped(int file, int64_t bytes) {
  if (file < 0) return nullptr;
  void* const begin = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (begin == MAP_FAILED) return nullptr;
  return {begin, [bytes](void* block) { munmap(block, static_cast<size_t>(bytes)); }};
}

}  // namespace

std::unique_ptr<Communicator> members_on_this_host(const Communicator& group) {
  MPI_Comm host;
  if (MPI_Comm_split_type(group.comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) != MPI_SUCCESS) return nullptr;
  return std::make_unique<Communicator>(host, group.names);
}

std::shared_ptr<void> map_segment(const Communicator& group, int64_t bytes) {
  static int segments = 0;
  int64_t key[2] = {getpid(), segments++};
  MPI_Bcast(key, 2, MPI_INT64_T, 0, group.comm);
  const std::string name = fmt::format("/ropewalk-{}-{}", key[0], key[1]);
  std::shared_ptr<void> segment;
  if (group.rank == 0) segment = mapped(make_segment(name, bytes), bytes);
  if (!on_all(group, group.rank != 0 || segment)) return nullptr;
  if (group.rank != 0) segment = mapped(shm_open(name.c_str(), O_RDWR, 0600), bytes);
  const bool everywhere = on_all(group, segment != nullptr);
  if (group.rank == 0) shm_unlink(name.c_str());
  return everywhere ? segment : nullptr;
}

}  // namespace ropewalk
