// What is under way between the ranks of one MPI communicator, and who drives it.
#pragma once

#include <mpi.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/group.h"

namespace ropewalk {

struct Communicator {
  explicit Communicator(MPI_Comm owned);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // Each rank begins with its right neighbour, so that they do not all turn to the same one.
  template <class Body>
  void for_each_peer(const Body& body) const {
    for (int step = 1; step < size; ++step) body((rank + step) % size);
  }

  MPI_Comm comm;
  int rank, size;
  std::vector<int> world_ranks;  // of its members: what reports name
  int64_t bytes_sent = 0;
};

// What a report says of an operation.
struct Description {
  const char* operation;
  const char* label;
  int64_t number;  // of its kind in this group, from 1
  int64_t bytes;
  DType dtype;
};

// One collective or one point-to-point transfer on this rank.
class Operation {
 public:
  Operation(std::shared_ptr<Communicator> group, const Description& what) : group_(std::move(group)), what_(what) {}
  virtual ~Operation() = default;

  void keep(const Tensor& tensor) { kept_.push_back(tensor); }  // until the operation is done
  void release() { kept_.clear(); }
  // Does what can be done without waiting. False if nothing happened.
  virtual bool advance() = 0;
  virtual void abandon() {}  // nothing is written into its tensors from now on
  bool done() const { return done_; }
  const Description& what() const { return what_; }
  int64_t begun() const { return begun_; }  // on the timeline, where one is recorded

  // Throws CommError: this operation, on this rank, and what is wrong.
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_unanswered(double seconds) const;

 protected:
  virtual std::vector<int> awaited() const = 0;  // the peers that it waits for

  std::shared_ptr<Communicator> group_;
  bool done_ = false;

 private:
  Description what_;
  Tensors kept_;
  int64_t begun_ = Timeline::recording() ? now_ns() : 0;
};

// The operations of this rank that are under way, over a group and all groups split from it. MPI moves messages only inside its calls, and
// one stage of an operation follows another only here; so whoever waits for one operation advances all.
class Progress {
 public:
  explicit Progress(double timeout) : timeout_(timeout) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void start(const std::shared_ptr<Operation>& operation);
  // Throws CommError when nothing at all has happened for `timeout` seconds; then every later wait throws that at once.
  void wait(const Operation& operation);

 private:
  using Clock = std::chrono::steady_clock;

  bool advance();
  void advance_until(const Operation& operation);
  template <class Body>
  void guarded(const Body& body);

  double timeout_;
  std::vector<std::shared_ptr<Operation>> under_way_;
  std::optional<CommError> failure_;
};

}  // namespace ropewalk
