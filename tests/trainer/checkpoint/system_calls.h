// Watches the system calls by which this process changes the file system, and interrupts one of them. Linking system_calls.cpp puts its
// open, write, fsync, rename, mkdir and unlinkat in front of the C library's.
#pragma once

#include <string>
#include <vector>

namespace ropewalk::testing {

enum class Interruption { kNone, kFail, kKill };  // the call returns ENOSPC; the process dies before the call

// From now on calls are counted from 1, and the call `number` is interrupted.
void watch_system_calls(Interruption interruption = Interruption::kNone, int number = 0);
// Ends watching. The calls that were made, as "fsync PATH".
std::vector<std::string> watched_system_calls();

}  // namespace ropewalk::testing
