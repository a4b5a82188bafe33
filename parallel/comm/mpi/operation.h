// Messages under way between the ranks of one MPI communicator.
//
// Every collective here is made of plain messages of bytes. MPI's own would leave the order of a sum to the library, cannot add bf16, and
// (as of Open MPI 4.1) send the whole buffer through one rank when there are fewer than four or the sum is in place. Messages are also
// what lets a report name the peer that did not answer.
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

// One collective or one point-to-point transfer on this rank: messages, perhaps followed by a next round of them.
class Operation {
 public:
  Operation(std::shared_ptr<Communicator> group, int tag, const Description& what) : group_(std::move(group)), tag_(tag), what_(what) {}

  void send(const void* data, int64_t bytes, int to);
  void receive(void* data, int64_t bytes, int from);
  void keep(const Tensor& tensor) { kept_.push_back(tensor); }        // until the operation is done
  void then(std::function<void()> next) { next_ = std::move(next); }  // once all messages so far have gone and come
  // Looks which messages have gone or come, and goes on with the next round after the last of a round. False if nothing happened.
  bool advance();
  bool done() const { return done_; }
  void release() { kept_.clear(); }
  void abandon();  // nothing is written into its tensors from now on

  // Throws CommError: this operation, on this rank, and what is wrong.
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_unanswered(double seconds) const;

 private:
  struct Message {
    int peer, bytes;
    bool incoming, done;
  };
  template <class Post>
  void post(char* data, int64_t bytes, int peer, bool incoming, const Post& start);
  bool test();
  void finish(int index, const MPI_Status& status);

  std::shared_ptr<Communicator> group_;
  int tag_;
  Description what_;
  std::vector<MPI_Request> requests_;
  std::vector<Message> messages_;  // of each request
  std::vector<int> moved_;         // room for MPI_Testsome
  std::vector<MPI_Status> statuses_;
  size_t outstanding_ = 0;
  Tensors kept_;
  std::function<void()> next_;
  bool done_ = false;
};

// The operations of this rank that are under way, over a group and all groups split from it. MPI moves messages only inside its calls, and
// a round follows another only here; so whoever waits for one operation advances all.
class Progress {
 public:
  explicit Progress(double timeout) : timeout_(timeout) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void start(const std::shared_ptr<Operation>& operation);
  // Throws CommError when no message at all has moved for `timeout` seconds; then every later wait throws that at once.
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
