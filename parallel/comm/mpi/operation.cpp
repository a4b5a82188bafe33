#include "parallel/comm/mpi/operation.h"

#include <sched.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "parallel/comm/mpi/lookout.h"

namespace ropewalk {
namespace {

constexpr int64_t kSpin = 50'000;  // ns of looking before the core is offered to others: what peers that share the host take for a chunk

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

void RankNames::set(int world_rank, const std::string& where) {
  const std::lock_guard lock(mutex_);
  where_[world_rank] = where;
}

std::string RankNames::of(int world_rank, const std::string& more) const {
  const std::lock_guard lock(mutex_);
  const auto found = where_.find(world_rank);
  const std::string where = found == where_.end() ? "" : found->second, both = where + (where.empty() || more.empty() ? "" : "; ") + more;
  return fmt::format(fmt::runtime(both.empty() ? "rank {}" : "rank {} ({})"), world_rank, both);
}

Communicator::Communicator(MPI_Comm owned, std::shared_ptr<RankNames> names, std::shared_ptr<Account> account)
    : comm(owned), names(std::move(names)), account(std::move(account)) {
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

std::string Description::name() const { return fmt::format("{} #{} \"{}\"", operation, number, label); }
std::string Description::text() const { return fmt::format("{}, {} {}", name(), size_text(bytes), dtype); }

void Operation::fail(const std::string& what) const {
  throw CommError(fmt::format("{}: {}: {}", group_->names->of(group_->world_ranks[group_->rank]), what_.text(), what));
}

std::vector<int> Operation::awaited_world_ranks() const {
  std::set<int> ranks;
  for (const int peer : awaited()) ranks.insert(group_->world_ranks[peer]);
  return {ranks.begin(), ranks.end()};
}

Progress::Progress(std::unique_ptr<Lookout> lookout) : lookout_(std::move(lookout)) {}

// Whoever still has to receive from here must not be left waiting. After a failure nobody will.
Progress::~Progress() {
  if (finalized()) return;
  try {
    while (!failure_ && !under_way_.empty()) advance_until(*std::shared_ptr<Operation>(under_way_.back()));
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
    if (lookout_->ends_job()) lookout_->end_job(error.what());
    failure_ = error;
    throw;
  }
}

void Progress::start(const std::shared_ptr<Operation>& operation) {
  guarded([&] {
    lookout_->started(operation->what());
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

// While it is idle the lookout knows what for.
void Progress::advance_until(const Operation& operation) {
  std::optional<Lookout::Idle> idle;
  int64_t moved = now_ns();
  while (!operation.done()) {
    if (advance()) {
      idle.reset();
      moved = now_ns();
    } else if (now_ns() - moved > kSpin) {
      if (!idle) idle.emplace(*lookout_, operation.what(), operation.awaited_world_ranks());
      check_answers(operation, idle->seconds());
      sched_yield();
    }
  }
}

// Whoever waits himself is not to blame: those who wait for the one to blame report him. Unless they all wait for each other.
void Progress::check_answers(const Operation& operation, double waited) const {
  const double timeout = lookout_->timeout();
  if (waited <= timeout) return;
  const std::vector<int> awaited = operation.awaited_world_ranks(), silent = lookout_->not_waiting(awaited);
  if (!silent.empty()) operation.fail(fmt::format("no answer from {} after {:g} s; gone or stalled", lookout_->describe(silent), timeout));
  if (waited > 2 * timeout)
    operation.fail(fmt::format("no answer from {} after {:g} s, nor do they get one", lookout_->describe(awaited), 2 * timeout));
}

void Progress::wait(const Operation& operation) {
  if (operation.done()) return;
  const Phase span(operation.what().label, TimeSpan::kWait);
  guarded([&] { advance_until(operation); });
}

}  // namespace ropewalk
