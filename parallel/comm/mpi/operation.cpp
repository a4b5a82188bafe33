#include "parallel/comm/mpi/operation.h"

#include <sched.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace ropewalk {
namespace {

// A long transfer is cut into messages of this size: MPI counts in int, and each that arrives shows that the peer is alive.
constexpr int64_t kMessage = 64 << 20;
constexpr int kSpins = 200;  // looks before the core is offered to others

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, length);
}

std::string size_text(int64_t bytes) {
  if (bytes < 1 << 10) return fmt::format("{} bytes", bytes);
  if (bytes < 1 << 20) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / (1 << 10));
  if (bytes < 1 << 30) return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
}

bool finalized() {
  int yes = 0;
  MPI_Finalized(&yes);
  return yes != 0;
}

}  // namespace

Communicator::Communicator(MPI_Comm owned) : comm(owned) {
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  std::vector<int> members(size);
  std::iota(members.begin(), members.end(), 0);
  world_ranks.resize(size);
  MPI_Group here, world;
  MPI_Comm_group(comm, &here);
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_translate_ranks(here, size, members.data(), world, world_ranks.data());
  MPI_Group_free(&here);
  MPI_Group_free(&world);
}

Communicator::~Communicator() {
  if (!finalized()) MPI_Comm_free(&comm);
}

template <class Post>
void Operation::post(char* data, int64_t bytes, int peer, bool incoming, const Post& start) {
  for (int64_t begin = 0; begin < bytes; begin += kMessage) {
    const int length = static_cast<int>(std::min(kMessage, bytes - begin));
    MPI_Request request;
    if (const int code = start(data + begin, length, &request); code != MPI_SUCCESS) fail(text_of(code));
    requests_.push_back(request);
    messages_.push_back({.peer = peer, .bytes = length, .incoming = incoming, .done = false});
    ++outstanding_;
  }
}

void Operation::send(const void* data, int64_t bytes, int to) {
  group_->bytes_sent += bytes;
  post(static_cast<char*>(const_cast<void*>(data)), bytes, to, false, [&](const char* part, int length, MPI_Request* request) {
    return MPI_Isend(part, length, MPI_BYTE, to, tag_, group_->comm, request);
  });
}

void Operation::receive(void* data, int64_t bytes, int from) {
  post(static_cast<char*>(data), bytes, from, true,
       [&](char* part, int length, MPI_Request* request) { return MPI_Irecv(part, length, MPI_BYTE, from, tag_, group_->comm, request); });
}

void Operation::finish(int index, const MPI_Status& status) {
  Message& message = messages_[index];
  message.done = true;
  --outstanding_;
  int count = message.bytes;
  if (message.incoming) MPI_Get_count(&status, MPI_BYTE, &count);
  if (count == message.bytes) return;
  fail(fmt::format("expected {} bytes from rank {}, given {}", message.bytes, group_->world_ranks[message.peer], count));
}

bool Operation::test() {
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

bool Operation::advance() {
  bool happened = test();
  while (outstanding_ == 0 && !done_) {
    happened = true;
    requests_.clear();
    messages_.clear();
    const auto next = std::exchange(next_, nullptr);
    if (next) next();
    done_ = !next;
  }
  return happened;
}

void Operation::abandon() {
  for (size_t i = 0; i < messages_.size(); ++i) {
    if (messages_[i].done) continue;
    if (messages_[i].incoming) MPI_Cancel(&requests_[i]);
    MPI_Request_free(&requests_[i]);
  }
}

void Operation::fail(const std::string& what) const {
  throw CommError(fmt::format("rank {}: {} #{} \"{}\", {} {}: {}", group_->world_ranks[group_->rank], what_.operation, what_.number,
                              what_.label, size_text(what_.bytes), what_.dtype, what));
}

void Operation::fail_unanswered(double seconds) const {
  std::set<int> silent;
  for (const Message& message : messages_)
    if (!message.done) silent.insert(group_->world_ranks[message.peer]);
  std::string peers;
  for (const int rank : silent) peers += fmt::format("{}{}", peers.empty() ? "" : ", ", rank);
  fail(fmt::format("no answer from rank{} {} after {:g} s; gone or stalled", silent.size() == 1 ? "" : "s", peers, seconds));
}

// Whoever still has to receive from here must not be left waiting. After a failure nobody will.
Progress::~Progress() {
  if (finalized()) return;
  try {
    while (!failure_ && !under_way_.empty()) wait(*std::shared_ptr<Operation>(under_way_.back()));
  } catch (const CommError&) {  // the end is under way already: no report
  }
  for (const auto& operation : under_way_) operation->abandon();
}

template <class Body>
void Progress::guarded(const Body& body) {
  if (failure_) throw *failure_;
  try {
    body();
  } catch (const CommError& error) {
    failure_ = error;
    throw;
  }
}

void Progress::start(const std::shared_ptr<Operation>& operation) {
  guarded([&] {
    under_way_.push_back(operation);
    advance();
  });
}

bool Progress::advance() {
  bool happened = false;
  for (const auto& operation : under_way_) happened |= operation->advance();
  if (!happened) return false;
  const auto first_done = std::stable_partition(under_way_.begin(), under_way_.end(), [](const auto& o) { return !o->done(); });
  const std::vector<std::shared_ptr<Operation>> done(first_done, under_way_.end());
  under_way_.erase(first_done, under_way_.end());
  // Last: a tensor that nobody else holds goes with it, and its storage may ask for this very operation.
  for (const auto& operation : done) operation->release();
  return true;
}

void Progress::advance_until(const Operation& operation) {
  auto last_moved = Clock::now();
  for (int spins = 0; !operation.done(); ++spins) {
    if (advance()) {
      last_moved = Clock::now();
    } else if (spins > kSpins) {
      if (Clock::now() - last_moved > std::chrono::duration<double>(timeout_)) operation.fail_unanswered(timeout_);
      sched_yield();
    }
  }
}

void Progress::wait(const Operation& operation) {
  if (operation.done()) return;
  guarded([&] { advance_until(operation); });
}

}  // namespace ropewalk
