// A collective or a transfer made of plain messages of bytes.
//
// MPI's own collectives would leave the order of a sum to the library, cannot add bf16, and (as of Open MPI 4.1) send the whole buffer
// through one rank when there are fewer than four or the sum is in place. Messages are also what lets a report name the peer that did not
// answer.
#pragma once

#include "parallel/comm/mpi/operation.h"
#include "parallel/comm/mpi/piece.h"

namespace ropewalk {

// Messages, perhaps followed by a next round of them.
class Exchange : public Operation {
 public:
  Exchange(std::shared_ptr<Communicator> group, int tag, const Description& what) : Operation(std::move(group), what), tag_(tag) {}

  void send(const void* data, int64_t bytes, int to);
  void receive(void* data, int64_t bytes, int from);
  // By way of dense copies where the piece is not dense.
  void send(const Piece& piece, int to);
  void receive(const Piece& piece, int from);
  void then(std::function<void()> next) { next_ = std::move(next); }  // once all messages so far have gone and come
  // Looks which messages have gone or come, and goes on with the next round after the last of a round.
  bool advance() override;
  void abandon() override;

 private:
  struct Message {
    int peer, bytes;
    bool incoming, done;
  };
  struct Arriving {
    Piece piece;
    Tensor dense;
  };
  template <class Post>
  void post(char* data, int64_t bytes, int peer, bool incoming, const Post& start);
  bool test();
  void place_arrived();
  void finish(int index, const MPI_Status& status);
  std::vector<int> awaited() const override;

  int tag_;
  std::vector<MPI_Request> requests_;
  std::vector<Message> messages_;  // of each request
  std::vector<int> moved_;         // room for MPI_Testsome
  std::vector<MPI_Status> statuses_;
  size_t outstanding_ = 0;
  std::vector<Arriving> arriving_;  // to be put in their places after this round
  std::function<void()> next_;
};

}  // namespace ropewalk
