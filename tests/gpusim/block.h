// The threads of a launched kernel, as fibers: block after block, and inside a block each thread runs on until a barrier. In which order
// they are woken is the simulation's choice (ROPEWALK_GPUSIM_ORDER): ascending, descending, or drawn from a seed. A kernel whose result
// depends on it lacks a barrier.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace gpusim {

// "ascending", "descending", or a seed. To begin with, what the environment's ROPEWALK_GPUSIM_ORDER says, or ascending.
void set_waking_order(const std::string& wish);

struct Extent {
  unsigned x = 1, y = 1, z = 1;
  size_t volume() const { return static_cast<size_t>(x) * y * z; }
};

// Where the thread that runs now stands, and what was launched.
struct Place {
  Extent thread, block, threads, blocks;
};
inline Place now;
int lane();

// Throw where a thread has ended, or waits elsewhere, while others wait here.
void block_barrier();
void warp_barrier(unsigned mask);
// What each lane of the warp that takes part hands in, a copy to each. At most kMostExchanged bytes.
constexpr size_t kMostExchanged = 64;
const std::byte* exchange(const void* mine, size_t bytes, unsigned mask);

template <class T>
std::array<T, 32> gather(const T& mine, unsigned mask = 0xffffffffu) {
  static_assert(sizeof(T) <= kMostExchanged);
  const std::byte* const of_lanes = exchange(&mine, sizeof(T), mask);
  std::array<T, 32> all{};
  for (size_t lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) std::memcpy(&all[lane], of_lanes + lane * kMostExchanged, sizeof(T));
  return all;
}

// Copies that a thread starts, puts into a group, and waits for until only the last few groups are under way.
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(size_t groups_under_way);

char* shared_memory();                             // the block's, poisoned before each block
void check_aligned(const void* at, size_t bytes);  // throws
void check_shared_memory(const char* end);         // throws where a kernel takes more than it was launched with

class Stream;
struct Event;
using Kernel = std::function<void()>;  // one thread's work
// Behind what is in the stream; false where the configuration is none that a GPU takes.
bool launch(Stream* stream, Extent blocks, Extent threads, size_t shared_bytes, Kernel kernel);

// Runs all threads now.
void run_kernel(Extent blocks, Extent threads, size_t shared_bytes, const Kernel& kernel);

}  // namespace gpusim
