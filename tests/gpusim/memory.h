// Device memory: an arena that only device code and copies may touch. A block lies alone in its pages, against their end, and behind them
// stands a page that kills whoever touches it; what lies between is NaN, and is checked when the block is freed. Fresh memory is full of
// NaN.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpusim {

void* allocate(size_t bytes);
void free(void* block);
int64_t reserved_bytes();
bool in_device_memory(const void* at);

// Device memory can be touched while this lives.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

}  // namespace gpusim
