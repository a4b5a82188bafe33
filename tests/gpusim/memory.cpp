#include "tests/gpusim/memory.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace gpusim {
namespace {

constexpr size_t kArena = size_t{256} << 30, kPage = 4096, kAlignment = 256;  // bytes
constexpr int kPoison = 0xff, kGuard = 0xa5;

struct Block {
  char* pages;
  size_t page_bytes, bytes;
};

class Arena {
 public:
  Arena() {
    void* const place = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) throw std::bad_alloc();
    begin_ = end_ = static_cast<char*>(place);
  }

  void* allocate(size_t bytes) {
    const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment, pages = (room + kPage - 1) / kPage * kPage;
    char*& place = unused(pages);
    char* const at = place + (pages - room);
    reserved_ += static_cast<int64_t>(pages);
    blocks_[at] = {.pages = place, .page_bytes = pages, .bytes = bytes};
    open(place, pages);
    std::memset(place, kGuard, pages);
    std::memset(at, kPoison, bytes);
    close(place, pages);
    taken(pages);
    return at;
  }

  void free(void* at) {
    const auto found = blocks_.find(static_cast<char*>(at));
    if (found == blocks_.end()) throw std::runtime_error("gpusim: what is freed was not allocated, or is freed twice");
    const Block block = found->second;
    open(block.pages, block.page_bytes);
    const char* const end = found->first + block.bytes;
    for (const char* guard = end; guard < block.pages + block.page_bytes; ++guard)
      if (*guard != static_cast<char>(kGuard))
        throw std::runtime_error("gpusim: written behind the end of a block of " + std::to_string(block.bytes) + " bytes");
    close(block.pages, block.page_bytes);
    blocks_.erase(found);
    reserved_ -= static_cast<int64_t>(block.page_bytes);
    spare_[block.page_bytes].push_back(block.pages);
  }

  void enter() {
    if (accesses_++ == 0) mprotect(begin_, static_cast<size_t>(end_ - begin_), PROT_READ | PROT_WRITE);
  }
  void leave() {
    if (--accesses_ == 0) mprotect(begin_, static_cast<size_t>(end_ - begin_), PROT_NONE);
  }

  int64_t reserved() const { return reserved_; }
  bool holds(const void* at) const { return at >= begin_ && at < begin_ + kArena; }

 private:
  // Where a block of so many bytes of pages may lie; taken() then says that it does. A page that is never opened stands behind each.
  char*& unused(size_t pages) {
    std::vector<char*>& spare = spare_[pages];
    if (!spare.empty()) return spare.back();
    next_ = end_;
    return next_;
  }
  void taken(size_t pages) {
    std::vector<char*>& spare = spare_[pages];
    if (!spare.empty())
      spare.pop_back();
    else
      end_ += pages;
  }
  void open(char* pages, size_t bytes) { mprotect(pages, bytes, PROT_READ | PROT_WRITE); }
  void close(char* pages, size_t bytes) {
    if (accesses_ == 0) mprotect(pages, bytes, PROT_NONE);
  }

  char *begin_, *end_, *next_ = nullptr;
  std::map<char*, Block> blocks_;
  std::map<size_t, std::vector<char*>> spare_;  // by bytes
  int64_t reserved_ = 0;
  int accesses_ = 0;
};

// Never destroyed: streams with static lifetime may free after any static of ours.
Arena& arena() {
  static Arena* const instance = new Arena;
  return *instance;
}

}  // namespace

void* allocate(size_t bytes) { return arena().allocate(bytes); }
void free(void* block) { arena().free(block); }
int64_t reserved_bytes() { return arena().reserved(); }
bool in_device_memory(const void* at) { return arena().holds(at); }

Access::Access() { arena().enter(); }
Access::~Access() { arena().leave(); }

}  // namespace gpusim
