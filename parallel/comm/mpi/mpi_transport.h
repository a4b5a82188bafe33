// The transport for host memory: MPI. Nothing outside this folder calls it.
#pragma once

#include "parallel/comm/group.h"

namespace ropewalk {

// MPI for as long as this lives: initialises it where no one has, finalises it unless an exception is on its way out (a dead peer would
// keep MPI_Finalize waiting for ever).
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // All ranks of the job. `timeout` is the seconds an operation may wait without progress before it throws CommError.
  Group world(double timeout) const;
  // Ends every rank of the job at once, with this exit code.
  [[noreturn]] static void abort(int exit_code);

 private:
  bool finalizes_ = false;
  int exceptions_;  // on their way out when this began
};

}  // namespace ropewalk
