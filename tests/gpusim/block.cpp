#include "tests/gpusim/block.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdlib>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gpusim {
namespace {

namespace context = boost::context;

constexpr size_t kWarp = 32, kStackBytes = 128 << 10;
constexpr std::byte kPoison{0xff};  // NaN in every floating type

enum class Wait { kNothing, kBlock, kWarp };

struct Warp {
  unsigned arrived = 0, mask = 0;
  int turn = 0;  // which of the two buffers this exchange fills: the last is read until all have come to this one
  std::array<std::array<std::byte, kWarp * kMostExchanged>, 2> exchanged;
};

struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes, group;
};

struct FiberThread {
  Extent index;
  context::fiber fiber;  // empty once it has ended
  Wait waits = Wait::kNothing;
  std::vector<AsyncCopy> copies;  // not done yet
  size_t copy_group = 0;          // that the next one joins
};

// The block that runs.
struct Block {
  std::vector<FiberThread> threads;
  std::vector<Warp> warps;
  std::vector<char> shared;
  size_t current = 0;
  context::fiber scheduler;
  std::exception_ptr failure;
};

Block* running = nullptr;

Block& block() {
  if (!running) throw std::logic_error("gpusim: device code outside of a kernel");
  return *running;
}

void pause(Wait wait) {
  Block& b = block();
  b.threads[b.current].waits = wait;
  b.scheduler = std::move(b.scheduler).resume();
}

void resume(Block& b, size_t i) {
  b.current = i;
  now.thread = b.threads[i].index;
  b.threads[i].fiber = std::move(b.threads[i].fiber).resume();
  if (b.failure) std::rethrow_exception(b.failure);
}

struct WakingOrder {
  explicit WakingOrder(const std::string& wish) : wish(wish) {
    if (wish != "ascending" && wish != "descending") random.seed(std::stoull(wish));
  }
  std::string wish;
  std::mt19937_64 random;
};

WakingOrder& waking_order() {
  static WakingOrder order = [] {
    const char* const wish = std::getenv("ROPEWALK_GPUSIM_ORDER");
    return WakingOrder(wish ? wish : "ascending");
  }();
  return order;
}

std::vector<size_t> order_of(size_t threads) {
  WakingOrder& waking = waking_order();
  std::vector<size_t> order(threads);
  std::iota(order.begin(), order.end(), size_t{0});
  if (waking.wish == "descending")
    std::reverse(order.begin(), order.end());
  else if (waking.wish != "ascending")
    std::shuffle(order.begin(), order.end(), waking.random);
  return order;
}

[[noreturn]] void diverged(const char* what, const Extent& thread) {
  throw std::runtime_error(std::string("gpusim: ") + what + " that not all its threads reach (block " + std::to_string(now.block.x) + ", " +
                           std::to_string(now.block.y) + ", " + std::to_string(now.block.z) + "; thread " + std::to_string(thread.x) +
                           ", " + std::to_string(thread.y) + ")");
}

context::fiber start(size_t i, const Kernel& kernel, context::pooled_fixedsize_stack& stacks) {
  return context::fiber(std::allocator_arg, stacks, [i, &kernel](context::fiber&& scheduler) {
    Block& b = block();
    b.scheduler = std::move(scheduler);
    try {
      kernel();
    } catch (const context::detail::forced_unwind&) {
      throw;
    } catch (...) {
      if (!b.failure) b.failure = std::current_exception();
    }
    b.threads[i].waits = Wait::kNothing;
    return std::move(b.scheduler);
  });
}

// Wakes whoever need not wait any longer. False where nobody does.
bool wake(Block& b) {
  const auto alive = [](const FiberThread& t) { return static_cast<bool>(t.fiber); };
  bool woken = false;
  if (std::all_of(b.threads.begin(), b.threads.end(), [&](const FiberThread& t) { return alive(t) && t.waits == Wait::kBlock; })) {
    for (FiberThread& t : b.threads) t.waits = Wait::kNothing;
    return true;
  }
  for (size_t w = 0; w < b.warps.size(); ++w) {
    Warp& warp = b.warps[w];
    if (warp.arrived == 0 || warp.arrived != warp.mask) continue;
    for (size_t lane = 0; lane < kWarp; ++lane)
      if (warp.mask >> lane & 1) b.threads[w * kWarp + lane].waits = Wait::kNothing;
    warp.arrived = warp.mask = 0;
    warp.turn ^= 1;
    woken = true;
  }
  return woken;
}

void run_block(Block& b, const Kernel& kernel, context::pooled_fixedsize_stack& stacks) {
  for (size_t i = 0; i < b.threads.size(); ++i) {
    b.threads[i].waits = Wait::kNothing;
    b.threads[i].copies.clear();
    b.threads[i].copy_group = 0;
    b.threads[i].fiber = start(i, kernel, stacks);
  }
  for (bool all_ended = false; !all_ended;) {
    for (const size_t i : order_of(b.threads.size())) {
      if (b.threads[i].fiber && b.threads[i].waits == Wait::kNothing) resume(b, i);
    }
    all_ended = std::none_of(b.threads.begin(), b.threads.end(), [](const FiberThread& t) { return static_cast<bool>(t.fiber); });
    if (all_ended || wake(b)) continue;
    const auto waiting = std::find_if(b.threads.begin(), b.threads.end(), [](const FiberThread& t) { return static_cast<bool>(t.fiber); });
    diverged(waiting->waits == Wait::kBlock ? "a __syncthreads" : "an exchange in a warp", waiting->index);
  }
}

Extent index_of(size_t i, const Extent& threads) {
  return {static_cast<unsigned>(i % threads.x), static_cast<unsigned>(i / threads.x % threads.y),
          static_cast<unsigned>(i / threads.x / threads.y)};
}

}  // namespace

void set_waking_order(const std::string& wish) { waking_order() = WakingOrder(wish); }

int lane() { return static_cast<int>(block().current % kWarp); }

void block_barrier() { pause(Wait::kBlock); }

const std::byte* exchange(const void* mine, size_t bytes, unsigned mask) {
  Block& b = block();
  const size_t current = b.current, in_warp = current % kWarp;
  Warp& warp = b.warps[current / kWarp];
  if (!(mask >> in_warp & 1)) diverged("an exchange in a warp without its own lane in the mask,", now.thread);
  if (warp.arrived != 0 && warp.mask != mask) diverged("an exchange in a warp with different masks,", now.thread);
  auto& buffer = warp.exchanged[static_cast<size_t>(warp.turn)];
  std::memcpy(buffer.data() + in_warp * kMostExchanged, mine, bytes);
  warp.mask = mask;
  warp.arrived |= 1u << in_warp;
  pause(Wait::kWarp);
  return buffer.data();
}

void warp_barrier(unsigned mask) { exchange(&mask, sizeof mask, mask); }

void copy_later(void* to, const void* from, size_t bytes) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  FiberThread& thread = block().threads[block().current];
  thread.copies.push_back({to, from, bytes, thread.copy_group});
}

void commit_copies() { ++block().threads[block().current].copy_group; }

void wait_for_copies(size_t groups_under_way) {
  FiberThread& thread = block().threads[block().current];
  const auto waited_for = [&](const AsyncCopy& copy) { return copy.group + groups_under_way < thread.copy_group; };
  for (const AsyncCopy& copy : thread.copies)
    if (waited_for(copy)) std::memcpy(copy.to, copy.from, copy.bytes);
  std::erase_if(thread.copies, waited_for);
}

char* shared_memory() {
  constexpr size_t kAlignment = 128;
  const auto at = reinterpret_cast<uintptr_t>(block().shared.data());
  return block().shared.data() + (kAlignment - at % kAlignment) % kAlignment;
}

void check_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
    throw std::runtime_error("gpusim: an address that is not aligned to " + std::to_string(bytes) + " bytes");
}

void check_shared_memory(const char* end) {
  const std::vector<char>& shared = block().shared;
  if (end > shared_memory() + shared.size() - 128)
    throw std::runtime_error("gpusim: a kernel takes more shared memory than the " + std::to_string(shared.size() - 128) +
                             " bytes that it was launched with");
}

void run_kernel(Extent blocks, Extent threads, size_t shared_bytes, const Kernel& kernel) {
  context::pooled_fixedsize_stack stacks(kStackBytes);
  Block b;
  now = {.thread = {}, .block = {}, .threads = threads, .blocks = blocks};
  b.threads.resize(threads.volume());
  for (size_t i = 0; i < b.threads.size(); ++i) b.threads[i].index = index_of(i, threads);
  b.warps.resize((threads.volume() + kWarp - 1) / kWarp);
  b.shared.resize(shared_bytes + 128);
  running = &b;
  const std::shared_ptr<void> done(nullptr, [](void*) { running = nullptr; });
  for (unsigned z = 0; z < blocks.z; ++z)
    for (unsigned y = 0; y < blocks.y; ++y)
      for (unsigned x = 0; x < blocks.x; ++x) {
        std::memset(b.shared.data(), static_cast<int>(kPoison), b.shared.size());
        now.block = {x, y, z};
        for (Warp& warp : b.warps) warp.arrived = warp.mask = 0;
        run_block(b, kernel, stacks);
      }
}

}  // namespace gpusim
