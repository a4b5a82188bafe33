#include "parallel/comm/mpi/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "kernels/tensor/allocator.h"

namespace ropewalk {
namespace {

constexpr int64_t kPage = 4096;
int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
int64_t counts_bytes(int ranks) { return whole_pages(ranks * static_cast<int64_t>(sizeof(SharedTensors::Counts))); }
int64_t tensor_bytes(const Shape& shape, DType dtype) { return whole_pages(shape.numel() * static_cast<int64_t>(size_of(dtype))); }

bool on_one_host(const Communicator& group) {
  MPI_Comm host;
  if (MPI_Comm_split_type(group.comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) != MPI_SUCCESS) return false;
  int size = 0;
  MPI_Comm_size(host, &size);
  MPI_Comm_free(&host);
  return size == group.size;
}

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

}  // namespace

std::shared_ptr<SharedTensors> SharedTensors::allocate(const Communicator& group, const Shape& shape, DType dtype) {
  if (!on_one_host(group)) return nullptr;
  const std::shared_ptr<void> segment = map_segment(group, counts_bytes(group.size) + group.size * tensor_bytes(shape, dtype));
  return segment ? std::shared_ptr<SharedTensors>(new SharedTensors(segment, group.size, shape, dtype)) : nullptr;
}

// A fresh segment is all zeros: nothing has begun.
SharedTensors::SharedTensors(const std::shared_ptr<void>& segment, int ranks, const Shape& shape, DType dtype)
    : counts_(static_cast<Counts*>(segment.get())) {
  char* const first = static_cast<char*>(segment.get()) + counts_bytes(ranks);
  for (int rank = 0; rank < ranks; ++rank)
    tensors_.push_back(Tensor::over(segment, first + rank * tensor_bytes(shape, dtype), shape, dtype));
  Allocator::host().count(tensors_[0].bytes());
}

SharedTensors::~SharedTensors() { Allocator::host().count(-tensors_[0].bytes()); }

int64_t SharedTensors::offset_of(const Tensor& x, int rank) const {
  const auto* const begin = static_cast<const char*>(of(rank).raw());
  const auto* const part = static_cast<const char*>(x.raw());
  return part >= begin && part < begin + of(rank).bytes() ? (part - begin) / static_cast<int64_t>(size_of(x.dtype())) : -1;
}

SharedOperation::SharedOperation(std::shared_ptr<Communicator> group, std::shared_ptr<SharedTensors> tensors, const Tensor& x,
                                 const Description& what, Part part)
    : Operation(std::move(group), what),
      tensors_(std::move(tensors)),
      number_(tensors_->next_operation()),
      begin_(tensors_->offset_of(x, group_->rank)),
      length_(x.numel()),
      part_(std::move(part)) {
  tensors_->counts(group_->rank).begun.store(number_ + 1, std::memory_order_release);
}

bool SharedOperation::all_have(Count count) const {
  for (int rank = 0; rank < group_->size; ++rank)
    if ((tensors_->counts(rank).*count).load(std::memory_order_acquire) <= number_) return false;
  return true;
}

Tensors SharedOperation::parts() const {
  Tensors parts;
  for (int rank = 0; rank < group_->size; ++rank) {
    const Tensor& tensor = tensors_->of(rank);
    parts.push_back(tensor.reshape({tensor.numel()}).narrow(0, begin_, length_));
  }
  return parts;
}

// A rank's counts only grow: were an operation that has just become possible done before the one started before it, the count would say
// that both are.
bool SharedOperation::advance() {
  if (!finished_) {
    std::atomic<int64_t>& finished = tensors_->counts(group_->rank).finished;
    if (finished.load(std::memory_order_relaxed) != number_ || !all_have(&SharedTensors::Counts::begun)) return false;
    part_(parts());
    finished_ = true;
    finished.store(number_ + 1, std::memory_order_release);
  }
  done_ = all_have(&SharedTensors::Counts::finished);
  return done_;
}

std::vector<int> SharedOperation::awaited() const {
  const Count count = finished_ ? &SharedTensors::Counts::finished : &SharedTensors::Counts::begun;
  std::vector<int> peers;
  for (int rank = 0; rank < group_->size; ++rank)
    if ((tensors_->counts(rank).*count).load(std::memory_order_acquire) <= number_) peers.push_back(rank);
  return peers;
}

}  // namespace ropewalk
