#include "kernels/tensor/allocator.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

namespace ropewalk {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::align_val_t alignment(size_t size) { return std::align_val_t{size < kHugePage ? 64 : kHugePage}; }

// Large blocks ask for huge pages: strided walks over matrices otherwise spend much of their time on address translation. A wish, which
// the system may not grant.
void* from_system(size_t size) {
  void* const block = ::operator new(size, alignment(size));
  if (size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
  return block;
}

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

// AddressSanitizer sees only what the system hands out. These tell it what we do: `bytes` of a block, full of NaN so that a sum over what
// nobody wrote is found too; of a block that is kept for later, nothing.
void mark_used([[maybe_unused]] void* block, [[maybe_unused]] size_t size, [[maybe_unused]] size_t bytes) {
  ASAN_POISON_MEMORY_REGION(block, size);
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
  if constexpr (kAddressSanitizer) std::memset(block, 0xff, bytes);
}
void mark_free([[maybe_unused]] void* block, [[maybe_unused]] size_t size) { ASAN_POISON_MEMORY_REGION(block, size); }

}  // namespace

// Deliberately never destroyed: tensors with static lifetime may be freed after any static of ours.
Allocator& Allocator::host() {
  static Allocator* const instance = new Allocator;
  return *instance;
}

// Eight classes an octave: at most an eighth of a block is waste.
size_t Allocator::size_class(size_t bytes) {
  bytes = std::max<size_t>(bytes, 64);
  const size_t step = std::max<size_t>(64, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

void* Allocator::allocate(size_t bytes) {
  const size_t size = size_class(bytes);
  const std::scoped_lock lock(mutex_);
  stats_.in_use += static_cast<int64_t>(bytes);
  stats_.peak = std::max(stats_.peak, stats_.in_use);
  if (auto found = cached_.find(size); found != cached_.end() && !found->second.empty()) {
    void* block = found->second.back();
    found->second.pop_back();
    mark_used(block, size, bytes);
    return block;
  }
  stats_.reserved += static_cast<int64_t>(size);
  ++stats_.system_calls;
  void* const block = from_system(size);
  mark_used(block, size, bytes);
  return block;
}

void Allocator::release(void* block, size_t bytes) {
  const size_t size = size_class(bytes);
  const std::scoped_lock lock(mutex_);
  stats_.in_use -= static_cast<int64_t>(bytes);
  mark_free(block, size);
  cached_[size].push_back(block);
}

void Allocator::count(int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  stats_.in_use += bytes;
  stats_.reserved += bytes;
  stats_.peak = std::max(stats_.peak, stats_.in_use);
}

MemoryStats Allocator::stats() const {
  const std::scoped_lock lock(mutex_);
  return stats_;
}

void Allocator::reset_peak() {
  const std::scoped_lock lock(mutex_);
  stats_.peak = stats_.in_use;
}

void Allocator::trim() {
  const std::scoped_lock lock(mutex_);
  for (auto& [size, blocks] : cached_) {
    for (void* block : blocks) ::operator delete(block, alignment(size));
    stats_.reserved -= static_cast<int64_t>(size * blocks.size());
  }
  cached_.clear();
}

}  // namespace ropewalk
