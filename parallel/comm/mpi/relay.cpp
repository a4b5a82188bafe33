#include "parallel/comm/mpi/relay.h"

#include "kernels/tensor/allocator.h"
#include "parallel/comm/mpi/shared_segment.h"

namespace ropewalk {
namespace {

constexpr int64_t kPage = 4096;

}  // namespace

int64_t Relay::seats_bytes(int ranks) { return (ranks * static_cast<int64_t>(sizeof(Seat)) + kPage - 1) / kPage * kPage; }

std::shared_ptr<Relay> Relay::open(const Communicator& group) {
  if (const auto here = members_on_this_host(group); !here || here->size < group.size) return nullptr;
  std::shared_ptr<void> segment = map_segment(group, seats_bytes(group.size) + group.size * kTrays * kTrayBytes);
  return segment ? std::shared_ptr<Relay>(new Relay(std::move(segment), group)) : nullptr;
}

// A fresh segment is all zeros: nothing has been laid.
Relay::Relay(std::shared_ptr<void> segment, const Communicator& group)
    : segment_(std::move(segment)),
      rank_(group.rank),
      ranks_(group.size),
      seats_(static_cast<Seat*>(segment_.get())),
      trays_(static_cast<char*>(segment_.get()) + seats_bytes(ranks_)) {
  Allocator::host().count(kTrays * kTrayBytes);
}

Relay::~Relay() { Allocator::host().count(-kTrays * kTrayBytes); }

std::vector<int> Relay::behind(Count of, int64_t chunk) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < ranks_; ++rank)
    if (count(of, rank) <= chunk) ranks.push_back(rank);
  return ranks;
}

// Chunks of one operation after the other: a rank's counts only grow.
bool Relay::may_lay(int64_t chunk) const { return count(&Seat::laid, rank_) == chunk && behind(&Seat::taken, chunk - kTrays).empty(); }

bool Relay::may_take(int64_t chunk) const { return count(&Seat::taken, rank_) == chunk && behind(&Seat::laid, chunk).empty(); }

void Relay::laid(int64_t chunk, int64_t operation_bytes) {
  seats_[rank_].operation_bytes[chunk % kTrays] = operation_bytes;
  seats_[rank_].laid.store(chunk + 1, std::memory_order_release);
}

std::vector<int> Relay::awaited() const {
  const int64_t laid = count(&Seat::laid, rank_), taken = count(&Seat::taken, rank_);
  return taken < laid ? behind(&Seat::laid, taken) : behind(&Seat::taken, laid - kTrays);
}

RelayedOperation::RelayedOperation(std::shared_ptr<Communicator> group, std::shared_ptr<Relay> relay, const Description& what, Plan plan)
    : Operation(std::move(group), what), relay_(std::move(relay)), plan_(std::move(plan)), first_(relay_->number_chunks(plan_.chunks)) {}

bool RelayedOperation::lay() {
  if (laid_ == plan_.chunks || (plan_.in_turn && laid_ > taken_) || !relay_->may_lay(first_ + laid_)) return false;
  const int64_t chunk = first_ + laid_;
  plan_.lay(laid_++, relay_->tray(group_->rank, chunk));
  relay_->laid(chunk, what().bytes);
  return true;
}

bool RelayedOperation::take() {
  if (taken_ == laid_ || !relay_->may_take(first_ + taken_)) return false;
  const int64_t chunk = first_ + taken_;
  std::vector<char*> trays;
  for (int rank = 0; rank < group_->size; ++rank) {
    if (const int64_t bytes = relay_->operation_bytes(rank, chunk); bytes != what().bytes)
      fail(fmt::format("expected {} bytes from {}, given {}", what().bytes, group_->names->of(group_->world_ranks[rank]), bytes));
    trays.push_back(relay_->tray(rank, chunk));
  }
  plan_.take(taken_++, trays);
  relay_->took(chunk);
  return true;
}

bool RelayedOperation::advance() {
  bool happened = false;
  while (lay() || take()) happened = true;
  done_ = taken_ == plan_.chunks;
  return happened || done_;
}

}  // namespace ropewalk
