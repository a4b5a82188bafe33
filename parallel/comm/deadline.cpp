#include "parallel/comm/deadline.h"

#include <chrono>
#include <utility>

namespace ropewalk {

Deadline::Deadline(double seconds, std::function<void()> late)
    : thread_([this, seconds, late = std::move(late)] { watch(seconds, late); }) {}

Deadline::~Deadline() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Deadline::extend() {
  {
    const std::lock_guard lock(mutex_);
    extended_ = true;
  }
  changed_.notify_one();
}

void Deadline::watch(double seconds, const std::function<void()>& late) {
  std::unique_lock lock(mutex_);
  while (changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return extended_ || over_; })) {
    if (over_) return;
    extended_ = false;
  }
  lock.unlock();
  late();
}

}  // namespace ropewalk
