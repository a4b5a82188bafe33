// Definition of the scan over chunks, one state after another.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk::reference {

struct AffineScan {
  std::vector<double> entering;     // [C, H, size]
  std::vector<double> leaving;      // [R, H, size]
  std::vector<double> total_decay;  // [R, H]
};

// decay [C, H], local [C, H, size], start [R, H, size].
inline AffineScan affine_scan(const std::vector<double>& decay, const std::vector<double>& local, const std::vector<double>& start,
                              const std::vector<int64_t>& first_chunk, int64_t heads, int64_t size) {
  AffineScan result{std::vector<double>(local.size()), start, {}};
  for (size_t run = 0; run + 1 < first_chunk.size(); ++run)
    for (int64_t head = 0; head < heads; ++head) {
      result.total_decay.push_back(1);
      for (int64_t chunk = first_chunk[run]; chunk < first_chunk[run + 1]; ++chunk) {
        const int64_t at = chunk * heads + head;
        result.total_decay.back() *= decay[at];
        for (int64_t i = 0; i < size; ++i) {
          double& state = result.leaving[(static_cast<int64_t>(run) * heads + head) * size + i];
          result.entering[at * size + i] = state;
          state = decay[at] * state + local[at * size + i];
        }
      }
    }
  return result;
}

}  // namespace ropewalk::reference
