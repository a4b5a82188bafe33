// What is under way between the ranks of one MPI communicator, and who drives it.
#pragma once

#include <mpi.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/group.h"

namespace ropewalk {

class Lookout;

// What reports call the ranks of the job: "rank 3", and once there is a mesh "rank 3 (pipeline 0, data 1, context 0, tensor 1)".
class RankNames {
 public:
  void set(int world_rank, const std::string& where);
  std::string of(int world_rank, const std::string& more = "") const;  // more: stands in the parentheses too

 private:
  mutable std::mutex mutex_;  // reports are made on other threads too
  std::map<int, std::string> where_;
};

struct Communicator {
  Communicator(MPI_Comm owned, std::shared_ptr<RankNames> names, std::shared_ptr<Account> account = nullptr);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  void count_sent(int64_t bytes) {
    bytes_sent += bytes;
    if (account) account->bytes += bytes;
  }
  // Each rank begins with its right neighbour, so that they do not all turn to the same one.
  template <class Body>
  void for_each_peer(const Body& body) const {
    for (int step = 1; step < size; ++step) body((rank + step) % size);
  }

  MPI_Comm comm;
  int rank, size;
  std::vector<int> world_ranks;  // of its members: what reports name
  std::shared_ptr<RankNames> names;
  std::shared_ptr<Account> account;  // of what is sent here, beside others; may be null
  int64_t bytes_sent = 0;
};

// What a report says of an operation.
struct Description {
  const char* operation;
  const char* label;
  int64_t number;  // of its kind in this group, from 1
  int64_t bytes;
  DType dtype;
  std::string name() const;  // all_reduce #12 "gradients"
  std::string text() const;  // all_reduce #12 "gradients", 1.0 MiB fp32
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
  std::vector<int> awaited_world_ranks() const;  // each once

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
  explicit Progress(std::unique_ptr<Lookout> lookout);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void start(const std::shared_ptr<Operation>& operation);
  // Where nothing at all has happened for the lookout's timeout, and those whom the operation waits for do not themselves wait for others,
  // that is a failure: it ends the process or, where the lookout is to leave that to the caller, throws CommError, now and in every later
  // wait.
  void wait(const Operation& operation);
  Lookout& lookout() const { return *lookout_; }

 private:
  bool advance();
  void advance_until(const Operation& operation);
  void check_answers(const Operation& operation, double waited) const;
  template <class Body>
  void guarded(const Body& body);

  std::unique_ptr<Lookout> lookout_;
  std::vector<std::shared_ptr<Operation>> under_way_;
  std::optional<CommError> failure_;
};

}  // namespace ropewalk
