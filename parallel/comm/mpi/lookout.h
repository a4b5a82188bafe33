// Looks out for ranks that die or stall, so that one of them ends the job, soon and with a line that names it.
//
// Three ways to notice, since no one sees all: whoever waits for a rank that does not answer runs into the timeout (Progress); a thread
// sees at once when the process of a rank on this host ends; and where a rank is in a call that nobody can look into it has a Deadline.
//
// The ranks of a host tell each other by shared memory where they are and who waits: whoever does is not to blame for the silence of
// others. The first that has something to report keeps the rest from reporting what only follows from it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/deadline.h"
#include "parallel/comm/mpi/mpi_transport.h"
#include "parallel/comm/mpi/operation.h"

namespace ropewalk {

class Lookout {
  struct Seat;
  struct Board;

 public:
  // Collective over `all`, the ranks to look at. Without `say` a failure is the caller's to deal with, and only the timeout is looked at.
  Lookout(const Communicator& all, double timeout, Say say);
  ~Lookout();  // this rank leaves in order
  Lookout(const Lookout&) = delete;
  Lookout& operator=(const Lookout&) = delete;

  double timeout() const { return timeout_; }
  // "rank 1 (pipeline 0, data 1, context 0, tensor 0; last in send #9 "pipeline.forward"), rank 2 (...)"
  std::string describe(const std::vector<int>& world_ranks) const;

  void started(const Description& what);  // where reports say that this rank was last
  // From construction on this rank waits for others and nothing moves.
  class Idle {
   public:
    Idle(Lookout& lookout, const Description& what, const std::vector<int>& awaited);
    ~Idle();
    Idle(const Idle&) = delete;
    Idle& operator=(const Idle&) = delete;
    double seconds();  // so far; also says that this rank still lives

   private:
    Lookout& lookout_;
    Seat* seat_;
    int64_t begin_;
  };
  // Those of `world_ranks` that are not known to be waiting for others.
  std::vector<int> not_waiting(const std::vector<int>& world_ranks) const;

  // A call that nobody can look into may take the timeout.
  Deadline deadline(const char* label);

  bool ends_job() const { return say_ != nullptr; }
  // Says the line, unless another rank of this host has said one, and ends this process with exit code 5; the launcher then ends the
  // others.
  [[noreturn]] void end_job(const std::string& line);

 private:
  Seat* seat(int world_rank) const;  // null where the rank is on another host
  void watch();
  bool left_in_order(int world_rank) const;
  void report_lost(const std::vector<int>& lost);
  bool awaits_any(const std::vector<int>& ranks) const;
  std::string line_about(const std::vector<int>& lost) const;
  bool first_to_report();

  double timeout_;
  Say say_;
  std::shared_ptr<RankNames> names_;
  int world_rank_;
  std::vector<int> host_ranks_;   // world ranks on this host
  std::shared_ptr<Board> board_;  // of this host; null where it has no shared memory left

  mutable std::mutex mutex_;  // of what follows: this rank's present
  std::optional<Description> latest_;
  std::vector<int> awaited_;

  int leave_ = -1;  // readable once the thread is to end
  std::thread watcher_;
};

}  // namespace ropewalk
