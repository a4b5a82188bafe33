#include "trainer/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace ropewalk {
namespace {
constexpr std::chrono::seconds kBetweenLines{5};

// mpirun gives its ranks a terminal of their own, whatever it writes to itself.
bool on_a_terminal() { return isatty(STDOUT_FILENO) && !std::getenv("OMPI_COMM_WORLD_RANK"); }
}  // namespace

Progress::Progress(int64_t first_step, int64_t steps)
    : first_(first_step), steps_(steps), begun_(Clock::now()), shown_(begun_ - kBetweenLines), terminal_(on_a_terminal()) {}

std::string Progress::eta(int64_t step) const {
  const double elapsed = std::chrono::duration<double>(Clock::now() - begun_).count();
  const auto left = static_cast<int64_t>(elapsed / static_cast<double>(step - first_) * static_cast<double>(steps_ - step));
  return fmt::format("{}:{:02}:{:02}", left / 3600, left / 60 % 60, left % 60);
}

void Progress::show(const Step& now) {
  const bool last = now.step == steps_;
  if (!terminal_ && !last && Clock::now() - shown_ < kBetweenLines) return;
  shown_ = Clock::now();
  fmt::print("{}step {}/{}  loss {:.4f}  grad_norm {:.3f}  {:.0f} tokens/s  {:.2f} GiB  eta {}{}", terminal_ ? "\r" : "", now.step, steps_,
             now.loss, now.grad_norm, now.tokens_per_second, static_cast<double>(now.memory_bytes) / (1 << 30), eta(now.step),
             terminal_ && !last ? "\033[K" : "\n");
  std::fflush(stdout);
}

}  // namespace ropewalk
