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
constexpr int kPoison = 0xff;

// What surrounds a block in its pages: a NaN in every floating type for whoever reads it, and not what anyone writes.
unsigned char guard_at(const char* place) { return reinterpret_cast<uintptr_t>(place) % 2 == 0 ? 0xa5 : 0xff; }
void set_guards(char* begin, const char* end) {
  for (char* at = begin; at < end; ++at) *at = static_cast<char>(guard_at(at));
}
bool guards_stand(const char* begin, const char* end) {
  for (const char* at = begin; at < end; ++at)
    if (static_cast<unsigned char>(*at) != guard_at(at)) return false;
  return true;
}

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
    nothing_ = memfd_create("gpusim", 0);
    if (nothing_ < 0) throw std::bad_alloc();
  }

  void* allocate(size_t bytes) {
    const size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment, pages = (room + kPage - 1) / kPage * kPage;
    char* const place = take(pages);
    char* const at = place + (pages - room);
    reserved_ += static_cast<int64_t>(pages);
    blocks_[at] = {.pages = place, .page_bytes = pages, .bytes = bytes};
    open(place, pages);
    set_guards(place, at);
    std::memset(at, kPoison, bytes);
    set_guards(at + bytes, place + pages);
    close(place, pages);
    return at;
  }

  void free(void* at) {
    const auto found = blocks_.find(static_cast<char*>(at));
    if (found == blocks_.end()) throw std::runtime_error("gpusim: what is freed was not allocated, or is freed twice");
    const Block block = found->second;
    open(block.pages, block.page_bytes);
    const char* const end = found->first + block.bytes;
    const bool intact = guards_stand(block.pages, found->first) && guards_stand(end, block.pages + block.page_bytes);
    std::memset(block.pages, kPoison, block.page_bytes);  // for who reads it still
    close(block.pages, block.page_bytes);
    blocks_.erase(found);
    reserved_ -= static_cast<int64_t>(block.page_bytes);
    spare_[block.page_bytes].push_back(block.pages);
    if (!intact) throw std::runtime_error("gpusim: written beside a block of " + std::to_string(block.bytes) + " bytes");
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
  // Where a block of so many bytes of pages may lie.
  char* take(size_t bytes) {
    std::vector<char*>& spare = spare_[bytes];
    if (!spare.empty()) {
      char* const place = spare.back();
      spare.pop_back();
      return place;
    }
    char* const place = end_;
    if (place + bytes + kPage > begin_ + kArena) throw std::bad_alloc();
    forbid(place + bytes);
    end_ += bytes + kPage;
    return place;
  }
  // Whoever touches this page dies, whatever its protection: it is one behind the end of a file.
  void forbid(char* page) {
    if (mmap(page, kPage, PROT_NONE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, nothing_, 0) == MAP_FAILED) throw std::bad_alloc();
  }
  void open(char* pages, size_t bytes) { mprotect(pages, bytes, PROT_READ | PROT_WRITE); }
  void close(char* pages, size_t bytes) {
    if (accesses_ == 0) mprotect(pages, bytes, PROT_NONE);
  }

  char *begin_, *end_;
  int nothing_;  // an empty file
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
