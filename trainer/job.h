// This process as a rank of an mpirun job: from command line to exit code.
#pragma once

#include <functional>

#include "parallel/comm/mpi/mpi_transport.h"

namespace ropewalk {

class Job {
 public:
  Job(int* argc, char*** argv);

  // All ranks; an operation may wait `timeout` seconds without progress.
  Group world(double timeout) const { return session_.world(timeout); }
  // Calls the verb and returns the exit code. An Error becomes one line: of the first rank where all ranks throw it; else of the rank that
  // does, which then ends the whole job at once, without another collective.
  int run(const std::function<void()>& verb) const;

 private:
  MpiSession session_;
};

}  // namespace ropewalk
