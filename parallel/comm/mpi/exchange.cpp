#include "parallel/comm/mpi/exchange.h"

#include <algorithm>
#include <utility>

namespace ropewalk {
namespace {

// A long transfer is cut into messages of this size: MPI counts in int, and each that arrives shows that the peer is alive.
constexpr int64_t kMessage = 64 << 20;

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, length);
}

}  // namespace

template <class Post>
void Exchange::post(char* data, int64_t bytes, int peer, bool incoming, const Post& start) {
  for (int64_t begin = 0; begin < bytes; begin += kMessage) {
    const int length = static_cast<int>(std::min(kMessage, bytes - begin));
    MPI_Request request;
    if (const int code = start(data + begin, length, &request); code != MPI_SUCCESS) fail(text_of(code));
    requests_.push_back(request);
    messages_.push_back({.peer = peer, .bytes = length, .incoming = incoming, .done = false});
    ++outstanding_;
  }
}

void Exchange::send(const void* data, int64_t bytes, int to) {
  group_->count_sent(bytes);
  post(static_cast<char*>(const_cast<void*>(data)), bytes, to, false, [&](const char* part, int length, MPI_Request* request) {
    return MPI_Isend(part, length, MPI_BYTE, to, tag_, group_->comm, request);
  });
}

void Exchange::receive(void* data, int64_t bytes, int from) {
  post(static_cast<char*>(data), bytes, from, true,
       [&](char* part, int length, MPI_Request* request) { return MPI_Irecv(part, length, MPI_BYTE, from, tag_, group_->comm, request); });
}

void Exchange::send(const Piece& piece, int to) {
  if (piece.dense()) return send(piece.data(), piece.bytes(), to);
  const Tensor dense = Tensor::empty({piece.bytes()}, DType::kUInt8);
  piece.store(0, piece.bytes(), static_cast<char*>(dense.raw()));
  keep(dense);
  send(dense.raw(), dense.bytes(), to);
}

void Exchange::receive(const Piece& piece, int from) {
  if (piece.dense()) return receive(piece.data(), piece.bytes(), from);
  const Tensor dense = Tensor::empty({piece.bytes()}, DType::kUInt8);
  arriving_.push_back({piece, dense});
  receive(dense.raw(), dense.bytes(), from);
}

void Exchange::place_arrived() {
  for (const Arriving& arrived : arriving_) arrived.piece.load(0, arrived.piece.bytes(), static_cast<const char*>(arrived.dense.raw()));
  arriving_.clear();
}

void Exchange::finish(int index, const MPI_Status& status) {
  Message& message = messages_[index];
  message.done = true;
  --outstanding_;
  int count = message.bytes;
  if (message.incoming) MPI_Get_count(&status, MPI_BYTE, &count);
  if (count == message.bytes) return;
  fail(fmt::format("expected {} bytes from {}, given {}", message.bytes, group_->names->of(group_->world_ranks[message.peer]), count));
}

bool Exchange::test() {
  if (outstanding_ == 0) return false;
  moved_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, moved_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) fail(text_of(code));
  for (int i = 0; i < count; ++i) {
    if (code == MPI_ERR_IN_STATUS && statuses_[i].MPI_ERROR != MPI_SUCCESS) fail(text_of(statuses_[i].MPI_ERROR));
    finish(moved_[i], statuses_[i]);
  }
  return count > 0;
}

bool Exchange::advance() {
  bool happened = test();
  while (outstanding_ == 0 && !done_) {
    happened = true;
    requests_.clear();
    messages_.clear();
    place_arrived();
    const auto next = std::exchange(next_, nullptr);
    if (next) next();
    done_ = !next;
  }
  return happened;
}

void Exchange::abandon() {
  for (size_t i = 0; i < messages_.size(); ++i) {
    if (messages_[i].done) continue;
    if (messages_[i].incoming) MPI_Cancel(&requests_[i]);
    MPI_Request_free(&requests_[i]);
  }
}

std::vector<int> Exchange::awaited() const {
  std::vector<int> peers;
  for (const Message& message : messages_)
    if (!message.done) peers.push_back(message.peer);
  return peers;
}

}  // namespace ropewalk
