#include "parallel/comm/mpi/operation.h"

#include <sched.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace ropewalk {
namespace {

constexpr int kSpins = 200;  // looks before the core is offered to others

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

void Operation::fail(const std::string& what) const {
  throw CommError(fmt::format("rank {}: {} #{} \"{}\", {} {}: {}", group_->world_ranks[group_->rank], what_.operation, what_.number,
                              what_.label, size_text(what_.bytes), what_.dtype, what));
}

void Operation::fail_unanswered(double seconds) const {
  std::set<int> silent;
  for (const int peer : awaited()) silent.insert(group_->world_ranks[peer]);
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
  if (Timeline* const timeline = Timeline::recording())
    for (const auto& operation : done)
      timeline->add({.kind = TimeSpan::kTransfer,
                     .name = operation->what().label,
                     .begin = operation->begun(),
                     .end = now_ns(),
                     .effort = {.bytes = static_cast<double>(operation->what().bytes)}});
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
  const Phase span(operation.what().label, TimeSpan::kWait);
  guarded([&] { advance_until(operation); });
}

}  // namespace ropewalk
