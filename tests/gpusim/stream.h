// A stream is a queue that nothing runs until something orders it: who waits for it, or for an event behind what it holds. So work that
// nothing orders is late, whatever a fast GPU would have done.
#pragma once

#include <deque>
#include <functional>

namespace gpusim {

class Stream {
 public:
  void push(std::function<void()> work) { queue_.push_back(std::move(work)); }
  void drain();

 private:
  std::deque<std::function<void()>> queue_;
};

}  // namespace gpusim
