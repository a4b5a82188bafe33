#include "trainer/op_times.h"

#include <algorithm>
#include <map>

namespace ropewalk {
namespace {

std::string name_of(const TimeSpan& span) {
  const std::string name(span.name);
  switch (span.kind) {
    case TimeSpan::kBackward: return name + ".backward";
    case TimeSpan::kWait: return "wait: " + name;
    default: return name;
  }
}

// Nowhere for a wait that another stage ends; the span around such a wait goes on without it.
std::string place_of(const TimeSpan& span) {
  const bool between_stages = span.kind == TimeSpan::kWait && span.name.starts_with("pipeline.");
  return std::string(between_stages ? "" : span.place);
}

// Outer spans before those inside them.
std::vector<TimeSpan> nested(const Timeline& timeline) {
  std::vector<TimeSpan> spans;
  for (const TimeSpan& span : timeline.spans())
    if (span.kind != TimeSpan::kTransfer) spans.push_back(span);
  std::stable_sort(spans.begin(), spans.end(), [](const TimeSpan& a, const TimeSpan& b) {
    if (a.begin != b.begin) return a.begin < b.begin;
    return a.end != b.end ? a.end > b.end : a.kind < b.kind;
  });
  return spans;
}

class Tally {
 public:
  using NameOf = std::string (*)(const TimeSpan&);
  explicit Tally(NameOf name_of) : name_of_(name_of) {}

  void enter(const TimeSpan& span) {
    while (!open_.empty() && open_.back().end <= span.begin) open_.pop_back();
    if (span.kind == TimeSpan::kKernel) return work(span);
    OpTime& op = of(span);
    ++op.calls;
    op.effort.bytes += span.effort.bytes;
    add(op, span.end - span.begin);
    if (!open_.empty()) add(*open_.back().op, span.begin - span.end);
    open_.push_back({&op, span.kind, span.end});
  }

  std::vector<OpTime> ops() const {
    std::vector<OpTime> all;
    for (const auto& [name, op] : ops_) all.push_back(op);
    std::stable_sort(all.begin(), all.end(), [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
    return all;
  }

 private:
  struct Open {
    OpTime* op;
    TimeSpan::Kind kind;
    int64_t end;
  };

  OpTime& of(const TimeSpan& span) {
    OpTime& op = ops_[name_of_(span)];
    op.name = name_of_(span);
    return op;
  }
  static void add(OpTime& op, int64_t nanoseconds) { op.seconds += static_cast<double>(nanoseconds) * 1e-9; }

  // A kernel works for whoever launched it; an op says its bytes itself.
  void work(const TimeSpan& kernel) {
    OpTime& op = open_.empty() ? of(kernel) : *open_.back().op;
    op.effort.flops += kernel.effort.flops;
    if (open_.empty() || open_.back().kind == TimeSpan::kPhase) op.effort.bytes += kernel.effort.bytes;
    if (!open_.empty()) return;
    ++op.calls;
    add(op, kernel.end - kernel.begin);
  }

  NameOf name_of_;
  std::map<std::string, OpTime> ops_;
  std::vector<Open> open_;
};

}  // namespace

std::vector<OpTime> op_times(const Timeline& timeline) {
  Tally tally(name_of);
  for (const TimeSpan& span : nested(timeline)) tally.enter(span);
  return tally.ops();
}

std::map<std::string, double> place_times(const Timeline& timeline) {
  Tally tally(place_of);
  for (const TimeSpan& span : nested(timeline)) tally.enter(span);
  std::map<std::string, double> seconds;
  for (const OpTime& place : tally.ops()) seconds[place.name] = place.seconds;
  return seconds;
}

}  // namespace ropewalk
