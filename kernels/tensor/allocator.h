// A caching allocator: freed blocks are kept by size class and handed out again, so that a steady step asks the system for nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace ropewalk {

struct MemoryStats {
  int64_t in_use = 0;        // bytes handed out now
  int64_t peak = 0;          // largest in_use since reset_peak()
  int64_t reserved = 0;      // bytes taken from the system, in use or cached
  int64_t system_calls = 0;  // how often the system was asked
};

class Allocator {
 public:
  static Allocator& host();

  // 64-byte aligned; contents undefined. Zero bytes give a valid block too.
  void* allocate(size_t bytes);
  void release(void* block, size_t bytes);

  // Counts memory that is ours but not from here (shared with other processes) as in use; negative when it goes.
  void count(int64_t bytes);

  MemoryStats stats() const;
  void reset_peak();
  void trim();  // returns cached blocks to the system

  Allocator() = default;
  ~Allocator() { trim(); }
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

 private:
  static size_t size_class(size_t bytes);

  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cached_;
  MemoryStats stats_;
};

}  // namespace ropewalk
