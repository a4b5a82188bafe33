// For what blocks where nobody can look in: a system call, a library's own collective.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace ropewalk {

// Where it lives for `seconds` without a call of extend(), `late` is called, once, on a thread of its own.
class Deadline {
 public:
  Deadline() = default;  // never
  Deadline(double seconds, std::function<void()> late);
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  void extend();  // something has happened: the seconds begin again

 private:
  void watch(double seconds, const std::function<void()>& late);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool extended_ = false, over_ = false;
  std::thread thread_;
};

}  // namespace ropewalk
