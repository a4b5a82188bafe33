// Collectives out of place over memory that the ranks of one host share: what a rank has for the others it lays there, once, and each takes
// from there what it needs straight into the place where it belongs. Long buffers pass through in chunks, so that little memory does, and
// that stays in the caches.
#pragma once

#include <atomic>

#include "parallel/comm/mpi/operation.h"

namespace ropewalk {

// For each rank a few trays in turn. Chunks are numbered from 0, over all operations, in the order that all ranks start these. A rank lays
// its part of a chunk into its tray once every rank is done with the chunk that had that tray before; a chunk is taken once every rank has
// laid its part.
class Relay {
 public:
  static constexpr int64_t kTrays = 2, kTrayBytes = 1 << 20;

  // Collective. Null on every rank where they do not share a host, or the host has too little shared memory.
  static std::shared_ptr<Relay> open(const Communicator& group);

  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  int64_t number_chunks(int64_t count) { return std::exchange(chunks_, chunks_ + count); }  // the first one's number
  char* tray(int rank, int64_t chunk) const { return trays_ + (rank * kTrays + chunk % kTrays) * kTrayBytes; }

  bool may_lay(int64_t chunk) const;
  bool may_take(int64_t chunk) const;
  void laid(int64_t chunk, int64_t operation_bytes);
  void took(int64_t chunk) { seats_[rank_].taken.store(chunk + 1, std::memory_order_release); }
  // Of the operation that a rank laid the chunk for.
  int64_t operation_bytes(int rank, int64_t chunk) const { return seats_[rank].operation_bytes[chunk % kTrays]; }
  std::vector<int> awaited() const;  // the ranks that keep this one from what it has to do next

 private:
  struct alignas(64) Seat {
    std::atomic<int64_t> laid;  // chunks
    int64_t operation_bytes[kTrays];
    alignas(64) std::atomic<int64_t> taken;  // chunks
  };
  using Count = std::atomic<int64_t> Seat::*;
  Relay(std::shared_ptr<void> segment, const Communicator& group);
  static int64_t seats_bytes(int ranks);
  int64_t count(Count of, int rank) const { return (seats_[rank].*of).load(std::memory_order_acquire); }
  std::vector<int> behind(Count of, int64_t chunk) const;

  std::shared_ptr<void> segment_;
  int rank_, ranks_;
  Seat* seats_;
  char* trays_;
  int64_t chunks_ = 0;
};

class RelayedOperation : public Operation {
 public:
  struct Plan {
    int64_t chunks;
    std::function<void(int64_t chunk, char* tray)> lay;
    std::function<void(int64_t chunk, const std::vector<char*>& trays)> take;  // trays by rank
    bool in_turn = false;                                                      // what is laid depends on what was taken before
  };
  RelayedOperation(std::shared_ptr<Communicator> group, std::shared_ptr<Relay> relay, const Description& what, Plan plan);

  bool advance() override;

 private:
  bool lay();
  bool take();
  std::vector<int> awaited() const override { return relay_->awaited(); }

  std::shared_ptr<Relay> relay_;
  Plan plan_;
  int64_t first_, laid_ = 0, taken_ = 0;
};

}  // namespace ropewalk
