// The transport for host memory: MPI. Nothing outside this folder calls it.
#pragma once

#include "parallel/comm/group.h"

namespace ropewalk {

using Say = std::function<void(const std::string& line)>;

// MPI for as long as this lives: initialises it where no one has, finalises it unless an exception is on its way out (a dead peer would
// keep MPI_Finalize waiting for ever).
class MpiSession {
 public:
  // With `say` a failure of communication (a peer that died or stalls, a call of MPI that does not return) ends this process at once, with
  // exit code 5 and without unwinding, after one rank has said why. Without, it is thrown as CommError where it can be.
  MpiSession(int* argc, char*** argv, Say say = nullptr);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // All ranks of the job. `timeout` is the seconds an operation may wait without progress.
  Group world(double timeout) const;
  // Ends every rank of the job at once, with this exit code.
  [[noreturn]] static void abort(int exit_code);

 private:
  Deadline deadline(const char* call) const;

  Say say_;
  mutable double timeout_;  // of the world
  bool finalizes_ = false;
  int exceptions_;  // on their way out when this began
};

}  // namespace ropewalk
