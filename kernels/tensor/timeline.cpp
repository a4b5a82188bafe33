#include "kernels/tensor/timeline.h"

#include <chrono>
#include <utility>

namespace ropewalk {
namespace {
thread_local Timeline* current = nullptr;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Timeline* Timeline::recording() { return current; }

void Timeline::add(const TimeSpan& span) {
  spans_.push_back(span);
  spans_.back().place = place_;
  if (span.kind == TimeSpan::kPhase || span.kind == TimeSpan::kBackward) border_ = span.end;
}

void Timeline::add_forward(const char* op, const Effort& effort) {
  const int64_t end = now_ns();
  spans_.push_back(
      {.kind = TimeSpan::kForward, .name = op, .begin = std::exchange(border_, end), .end = end, .effort = effort, .place = place_});
}

Recording::Recording(Timeline& timeline) : before_(std::exchange(current, &timeline)) {}
Recording::~Recording() { current = before_; }

void Phase::begin() {
  span_.begin = now_ns();
  if (span_.kind == TimeSpan::kPhase || span_.kind == TimeSpan::kBackward) timeline_->border_ = span_.begin;
}

void Phase::end() {
  span_.end = now_ns();
  timeline_->add(span_);
}

}  // namespace ropewalk
