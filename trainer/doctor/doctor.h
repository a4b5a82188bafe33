// Whether this machine computes what it should: what program and machine there are, how fast memory, products and the way between host
// and device are, and every op on the device against the host.
#pragma once

#include <string>

namespace ropewalk {

struct Diagnosis {
  std::string report;
  bool healthy = false;  // no op failed
};
Diagnosis diagnose();

}  // namespace ropewalk
