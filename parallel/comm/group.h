// A Group is a set of ranks that talk to each other: a value, copies are the same group. A group of one makes every move vanish.
//
// Collectives return at once. A returned tensor is pending (see Storage): its first reader waits. Buffers stay alive until completion.
// Every member must make the same calls in the same order. Each call carries a label, a string literal naming the *move* it serves
// ("tp_leave"): it is what a report of a hang or a dead peer prints. Tensors are of any floating type; bf16 is summed in fp32.
// A group moves tensors and has never heard of gradients.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/tensor/tensor.h"
#include "parallel/comm/deadline.h"

namespace ropewalk {

// A peer died, or did not answer in time.
struct CommError : Error {
  static constexpr int kExitCode = 5;
  explicit CommError(const std::string& message) : Error(kExitCode, message) {}
};

// Something under way that fills a buffer in place.
class Work {
 public:
  Work() = default;  // already done
  explicit Work(std::function<void()> wait) : wait_(std::move(wait)) {}
  void wait() {
    if (wait_) std::exchange(wait_, nullptr)();
  }

 private:
  std::function<void()> wait_;
};

// Where the ranks' pieces of a buffer begin, in elements, and its end: piece r is [cuts[r], cuts[r + 1]).
using Cuts = std::vector<int64_t>;
Cuts even_cuts(int64_t elements, int ranks);

// Bytes that this rank has sent for one purpose, through however many groups.
struct Account {
  int64_t bytes = 0;
};

// What a transport does for one group (parallel/comm/mpi: host memory). Tensors are dense here, except for the pieces of a dense tensor:
// its ranges along one dim, one a rank, side by side.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Dense memory, the same on every rank, over which sums in place are cheapest. Blocking.
  virtual Tensor allocate_shared(const Shape& shape, DType dtype) = 0;
  virtual void open_relay() = 0;
  // Each starts the operation and returns what waits for it. Inputs and outputs stay alive with the returned Work.
  virtual Work all_reduce(const Tensor& in, const Tensor& out, const char* label) = 0;  // sum; in may be out
  // The other tensor has the shape of this rank's piece, and may be it.
  virtual Work all_gather(const Tensor& in, const Tensors& pieces, const char* label) = 0;
  virtual Work reduce_scatter(const Tensors& pieces, const Tensor& out, const char* label) = 0;
  virtual Work all_to_all(const Tensor& in, const Cuts& sent, const Tensor& out, const Cuts& received, const char* label) = 0;
  virtual Work send(const Tensor& in, int to, const char* label) = 0;
  virtual Work receive(const Tensor& out, int from, const char* label) = 0;
  virtual std::string broadcast(const std::string& text, int root) = 0;  // blocking
  // Ranks keep their order.
  virtual std::shared_ptr<Transport> split(int color, const std::shared_ptr<Account>& account) = 0;
  virtual int64_t bytes_sent() const = 0;
  virtual void name_ranks(const std::vector<std::string>& names) = 0;
  virtual Deadline deadline(const char* label) = 0;
};

class Group {
 public:
  Group() = default;  // one rank
  explicit Group(std::shared_ptr<Transport> transport) : transport_(std::move(transport)) {}

  int rank() const { return transport_ ? transport_->rank() : 0; }
  int size() const { return transport_ ? transport_->size() : 1; }

  // A dense tensor of one shape on each rank. Where the ranks share a host it lies in memory that all of them see, and a sum in place over
  // it, or over the same part of it everywhere, runs at the memory's speed. Collective.
  Tensor allocate_shared(const Shape& shape, DType dtype, Device device = {}) const;
  // From now on gathers and sums out of place go through memory that the ranks share, where they share a host, instead of by messages. For
  // groups that move activations: it takes two MiB a rank. Collective.
  void open_relay() const;
  Tensor all_reduce(const Tensor& x, const char* label) const;         // the sum over the ranks
  Work all_reduce_in_place(const Tensor& x, const char* label) const;  // x dense
  // x whole on each rank and dense; `cuts` the same on all. The first leaves the sum in this rank's piece alone (the others are undefined),
  // the second takes every other rank's piece from it.
  Work reduce_scatter_in_place(const Tensor& x, const Cuts& cuts, const char* label) const;
  Work all_gather_in_place(const Tensor& x, const Cuts& cuts, const char* label) const;
  // Rows of x [n, ..], sent[r] of them to each rank r in turn; what the others send, received[r] from each, by rank.
  Tensor all_to_all(const Tensor& x, const std::vector<int64_t>& sent, const std::vector<int64_t>& received, const char* label) const;
  Tensor all_gather(const Tensor& x, int dim, const char* label) const;      // the ranks' x side by side along dim, by rank
  Tensor reduce_scatter(const Tensor& x, int dim, const char* label) const;  // this rank's slice along dim of the sum
  // Point to point. The send completes on its own, and the group holds the tensor until then; who wants to wait may.
  Work send(const Tensor& x, int to, const char* label) const;
  Tensor receive(const Shape& shape, DType dtype, int from, const char* label) const;

  // Host values; these block. Sums are added in the order of ranks, so that every rank gets the same bits.
  double sum(double x, const char* label) const;
  double max(double x, const char* label) const;
  bool any(bool x, const char* label) const;
  std::vector<double> gather(double x, const char* label) const;
  std::string broadcast(const std::string& text, int root = 0) const;
  void barrier(const char* label) const;

  // The members with the same color, in this group's order. What they send counts into the account; without one, into that of this group,
  // if any. Collective.
  Group split(int color, const std::shared_ptr<Account>& account = nullptr) const;
  // Bytes that this rank has sent through this group so far, and not through groups split off it. Of a buffer of which piece p is its own
  // it sends in an all-reduce the rest, and p to each other rank; in a reduce-scatter the rest; in a gather p to each other rank. Over n
  // ranks that makes 2 (n-1), (n-1) and (n-1) times the buffer, however it is cut; through memory that they share as through messages.
  int64_t bytes_sent() const { return transport_ ? transport_->bytes_sent() : 0; }

  // Where each member stands, by rank ("pipeline 0, data 1"): what reports name it by, beside its number.
  void name_ranks(const std::vector<std::string>& names) const;
  // Ends the job where this rank needs longer for something on its own, such as a disk, than others may take to answer. On any thread.
  Deadline deadline(const char* label) const { return transport_ ? transport_->deadline(label) : Deadline(); }

 private:
  std::shared_ptr<Transport> transport_;
};

// Runs body on every rank of a group. If it throws an Error on any, every rank throws that error (the lowest rank's), so that all end with
// one line and one exit code, and nobody waits for who has left.
void agree(const Group& group, const std::function<void()>& body, const char* label = "agree");

}  // namespace ropewalk
