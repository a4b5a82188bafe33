// y = gate / (1 + e^-gate) * up and its derivatives, one element at a time.
#pragma once

#include <cmath>

namespace ropewalk::reference {

inline double swiglu(double gate, double up) { return gate / (1 + std::exp(-gate)) * up; }

inline double swiglu_by_up(double gate) { return gate / (1 + std::exp(-gate)); }

inline double swiglu_by_gate(double gate, double up) {
  const double e = std::exp(-gate);
  return up * ((1 + e) + gate * e) / ((1 + e) * (1 + e));  // the quotient rule
}

}  // namespace ropewalk::reference
