// One log: to the terminal, and from when a run has a folder to its log.txt too.
#pragma once

#include <string>

namespace ropewalk {

// Level from ROPEWALK_LOG (trace, debug, info, warn, error; default info).
void start_logging();
void log_to_file(const std::string& path);

}  // namespace ropewalk
