#include "trainer/batch_loader.h"

#include <omp.h>

namespace ropewalk {

BatchLoader::BatchLoader(std::function<std::vector<Microbatch>(int64_t)> make, int64_t first, int64_t end)
    : make_(std::move(make)), thread_([this, first, end] { run(first, end); }) {}

BatchLoader::~BatchLoader() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::vector<Microbatch> BatchLoader::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty(); });
  if (ready_.front().error) std::rethrow_exception(ready_.front().error);  // which stays: there is no next step
  std::vector<Microbatch> batches = std::move(ready_.front().batches);
  ready_.pop_front();
  lock.unlock();
  changed_.notify_all();
  return batches;
}

void BatchLoader::run(int64_t first, int64_t end) {
  omp_set_num_threads(1);  // of this thread: the cores are the step's
  for (int64_t step = first; step < end; ++step) {
    Made made = make_one(step);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopping_ || ready_.size() < kAhead; });
    if (stopping_) return;
    const bool failed = made.error != nullptr;
    ready_.push_back(std::move(made));
    lock.unlock();
    changed_.notify_all();
    if (failed) return;
  }
}

BatchLoader::Made BatchLoader::make_one(int64_t step) const try { return {.batches = make_(step), .error = nullptr}; } catch (...) {
  return {.batches = {}, .error = std::current_exception()};
}

}  // namespace ropewalk
