// What a person sees while a run goes on: one line, rewritten on a terminal, repeated every few seconds elsewhere.
#pragma once

#include <chrono>
#include <string>

namespace ropewalk {

class Progress {
 public:
  Progress(int64_t first_step, int64_t steps);

  struct Step {
    int64_t step;  // finished so far
    double loss, grad_norm, tokens_per_second;
    int64_t memory_bytes;
  };
  void show(const Step& step);

 private:
  using Clock = std::chrono::steady_clock;
  std::string eta(int64_t step) const;

  int64_t first_, steps_;
  Clock::time_point begun_, shown_;
  bool terminal_;
};

}  // namespace ropewalk
