// The next steps' microbatches, made by a thread while a step runs.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/context.h"

namespace ropewalk {

class BatchLoader {
 public:
  // Calls make(step) for each step in [first, end), in this order and on a thread of its own, at most kAhead steps ahead.
  BatchLoader(std::function<std::vector<Microbatch>(int64_t step)> make, int64_t first, int64_t end);
  ~BatchLoader();  // waits for the step that is being made, and leaves the rest
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The microbatches of the next step. Throws what make threw for it; nothing comes after that.
  std::vector<Microbatch> next();

 private:
  static constexpr size_t kAhead = 2;
  struct Made {
    std::vector<Microbatch> batches;
    std::exception_ptr error;
  };

  void run(int64_t first, int64_t end);
  Made make_one(int64_t step) const;

  std::function<std::vector<Microbatch>(int64_t)> make_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Made> ready_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses what stands above
};

}  // namespace ropewalk
