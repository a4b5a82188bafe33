#include "parallel/comm/mpi/lookout.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>

#include "parallel/comm/mpi/shared_segment.h"

namespace ropewalk {
namespace {

// After the death of a rank, in ms. Where a launcher ends the whole job nobody is to complain, so its blows get time to fall; but mpirun,
// which ends the others when it has lost one, gives them only a second to speak.
constexpr int kSettle = 100, kLook = 10, kPatience = 500;
constexpr std::chrono::seconds kLastWord(2);  // for the rank that speaks, before others by leaving let the launcher end it

// Comparable between the processes of a host.
int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

// Process ids mean the same only within one of these.
int64_t process_id_space() {
  struct stat status;
  return stat("/proc/self/ns/pid", &status) == 0 ? static_cast<int64_t>(status.st_ino) : -1;
}

// Readable once the process has ended; negative where the system (before Linux 5.3) or its rules do not give one. glibc 2.36 declares the
// call for C only.
int descriptor_of(int64_t process) { return static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(process), 0)); }

// True once the descriptor is readable.
bool readable_within(int descriptor, int ms) {
  pollfd watched{.fd = descriptor, .events = POLLIN, .revents = 0};
  return poll(&watched, 1, ms) > 0;
}

}  // namespace

struct alignas(64) Lookout::Seat {
  std::atomic<int64_t> process, process_space;
  std::atomic<int64_t> waiting;  // when it last said so; 0 while it does not wait
  std::atomic<bool> left;
  std::array<std::atomic<char>, 88> last;  // the name of the operation that it came to last, up to a zero

  void write_last(std::string_view name) {
    const size_t length = std::min(name.size(), last.size() - 1);
    for (size_t i = 0; i < length; ++i) last[i].store(name[i], std::memory_order_relaxed);
    last[length].store('\0', std::memory_order_relaxed);
  }
  std::string read_last() const {
    std::string name;
    for (size_t i = 0; i < last.size() && last[i] != '\0'; ++i) name += last[i];
    return name;
  }
};

// Ahead of the seats.
struct alignas(64) Lookout::Board {
  Seat* seats() { return reinterpret_cast<Seat*>(this + 1); }
  std::atomic<bool> reported;
};

Lookout::Lookout(const Communicator& all, double timeout, Say say)
    : timeout_(timeout), say_(std::move(say)), names_(all.names), world_rank_(all.world_ranks[all.rank]) {
  const std::unique_ptr<Communicator> host = members_on_this_host(all);
  if (!host) return;
  host_ranks_ = host->world_ranks;
  const auto bytes = static_cast<int64_t>(sizeof(Board) + host_ranks_.size() * sizeof(Seat));
  board_ = std::static_pointer_cast<Board>(map_segment(*host, bytes));
  if (!board_) return;
  seat(world_rank_)->process = getpid();
  seat(world_rank_)->process_space = process_id_space();
  MPI_Barrier(host->comm);  // all have sat down
  if (!ends_job()) return;
  leave_ = eventfd(0, EFD_CLOEXEC);
  watcher_ = std::thread([this] { watch(); });
}

Lookout::~Lookout() {
  if (board_) seat(world_rank_)->left = true;
  if (!watcher_.joinable()) return;
  eventfd_write(leave_, 1);
  watcher_.join();
  close(leave_);
}

Lookout::Seat* Lookout::seat(int world_rank) const {
  const auto found = std::find(host_ranks_.begin(), host_ranks_.end(), world_rank);
  return board_ && found != host_ranks_.end() ? board_->seats() + (found - host_ranks_.begin()) : nullptr;
}

std::string Lookout::describe(const std::vector<int>& world_ranks) const {
  std::string text;
  for (const int rank : world_ranks) {
    const Seat* const other = seat(rank);
    const std::string last = other ? other->read_last() : "";
    text += (text.empty() ? "" : ", ") + names_->of(rank, last.empty() ? "" : "last in " + last);
  }
  return text;
}

void Lookout::started(const Description& what) {
  if (Seat* const own = seat(world_rank_)) own->write_last(what.name());
  const std::lock_guard lock(mutex_);
  latest_ = what;
}

Lookout::Idle::Idle(Lookout& lookout, const Description& what, const std::vector<int>& awaited)
    : lookout_(lookout), seat_(lookout.seat(lookout.world_rank_)), begin_(now()) {
  const std::lock_guard lock(lookout_.mutex_);
  lookout_.latest_ = what;
  lookout_.awaited_ = awaited;
}

Lookout::Idle::~Idle() {
  if (seat_) seat_->waiting = 0;
  const std::lock_guard lock(lookout_.mutex_);
  lookout_.awaited_.clear();
}

double Lookout::Idle::seconds() {
  const int64_t time = now();
  if (seat_) seat_->waiting.store(time, std::memory_order_relaxed);
  return static_cast<double>(time - begin_) * 1e-9;
}

// Who has not said for half the timeout that he waits was stopped while he did.
std::vector<int> Lookout::not_waiting(const std::vector<int>& world_ranks) const {
  const int64_t since = now() - static_cast<int64_t>(timeout_ / 2 * 1e9);
  std::vector<int> found;
  for (const int rank : world_ranks)
    if (const Seat* const other = seat(rank); !other || other->waiting < since) found.push_back(rank);
  return found;
}

Deadline Lookout::deadline(const char* label) {
  if (!ends_job()) return {};
  return {timeout_, [this, label] {
            end_job(fmt::format("{}: {}: nothing has happened for {:g} s; stalled", names_->of(world_rank_), label, timeout_));
          }};
}

void Lookout::end_job(const std::string& line) {
  if (first_to_report())
    say_(line);
  else
    std::this_thread::sleep_for(kLastWord);
  std::_Exit(CommError::kExitCode);
}

bool Lookout::first_to_report() { return !board_ || !board_->reported.exchange(true); }

// The thread: until this rank leaves, or another is lost.
void Lookout::watch() {
  const int64_t space = process_id_space();
  std::vector<pollfd> watched = {{.fd = leave_, .events = POLLIN, .revents = 0}};
  std::vector<int> ranks = {world_rank_};
  for (const int rank : host_ranks_) {
    if (rank == world_rank_ || seat(rank)->process_space != space) continue;
    watched.push_back({.fd = descriptor_of(seat(rank)->process), .events = POLLIN, .revents = 0});
    ranks.push_back(rank);
  }
  while (watched[0].revents == 0) {
    while (poll(watched.data(), watched.size(), -1) < 0 && errno == EINTR) {
    }
    std::vector<int> lost;
    for (size_t i = 1; i < watched.size(); ++i) {
      if (watched[i].revents == 0) continue;
      if (!left_in_order(ranks[i])) lost.push_back(ranks[i]);
      close(std::exchange(watched[i].fd, -1));
    }
    if (!lost.empty()) report_lost(lost);
  }
  for (size_t i = 1; i < watched.size(); ++i)
    if (watched[i].fd >= 0) close(watched[i].fd);
}

bool Lookout::left_in_order(int world_rank) const { return seat(world_rank)->left; }

// Better said by a rank that waits for them: it can name what they owe.
void Lookout::report_lost(const std::vector<int>& lost) {
  if (readable_within(leave_, kSettle)) return;
  for (int waited = kSettle; waited < kPatience && !awaits_any(lost); waited += kLook)
    if (readable_within(leave_, kLook)) return;
  end_job(line_about(lost));
}

bool Lookout::awaits_any(const std::vector<int>& ranks) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(awaited_.begin(), awaited_.end(),
                     [&](int awaited) { return std::find(ranks.begin(), ranks.end(), awaited) != ranks.end(); });
}

std::string Lookout::line_about(const std::vector<int>& lost) const {
  const std::lock_guard lock(mutex_);
  const std::string here = !latest_ ? "" : fmt::format("{}{}: ", awaited_.empty() ? "after " : "", latest_->text());
  return fmt::format("{}: {}{} {} gone", names_->of(world_rank_), here, describe(lost), lost.size() == 1 ? "is" : "are");
}

}  // namespace ropewalk
