#include "trainer/stop_signals.h"

#include <array>
#include <atomic>
#include <csignal>

namespace ropewalk {
namespace {

constexpr std::array kSignals = {SIGUSR1, SIGTERM, SIGINT};

std::array<std::atomic<int>, kSignals.size()> received;  // a signal may come to any thread: a sig_atomic_t is not enough
static_assert(std::atomic<int>::is_always_lock_free);
std::array<struct sigaction, kSignals.size()> before;

void note(int signal) {
  for (size_t i = 0; i < kSignals.size(); ++i)
    if (kSignals[i] == signal) received[i] = 1;
}

}  // namespace

StopSignals::StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    received[i] = 0;
    struct sigaction action {};
    action.sa_handler = note;
    action.sa_flags = SA_RESTART | (kSignals[i] == SIGUSR1 ? 0 : SA_RESETHAND);
    sigaction(kSignals[i], &action, &before[i]);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
}

void StopSignals::vote(Census& census) {
  usr1_ = census.put(received[0]);
  term_ = census.put(received[1] || received[2]);
  int_ = census.put(received[2]);
}

int StopSignals::verdict(const Census& census) const {
  const bool stop = census.max(usr1_) > 0 || census.min(term_) > 0;
  if (!stop) return 0;
  return 128 + (census.min(int_) > 0 ? SIGINT : SIGTERM);
}

}  // namespace ropewalk
