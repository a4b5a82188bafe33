// The ranks of one host, and memory that all of them see.
//
// It is POSIX shared memory and not an MPI window: to free a window is collective, and would hang where a peer has failed. Its name is gone
// as soon as every rank has it mapped, so that a killed job leaves nothing behind.
#pragma once

#include <memory>

#include "parallel/comm/mpi/operation.h"

namespace ropewalk {

// Collective. The members of the group that share this rank's host, in the group's order; null where MPI does not say.
std::unique_ptr<Communicator> members_on_this_host(const Communicator& group);

// Collective. Zeros, unmapped with the last copy of what is returned; null on every rank where the host has too little shared memory.
std::shared_ptr<void> map_segment(const Communicator& group, int64_t bytes);

}  // namespace ropewalk
