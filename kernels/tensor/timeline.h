// What a thread does with its time, as spans that nest: phases of a step, ops forward and backward, kernels, waits for transfers. Traces
// and benchmarks are made of it. Where nothing is recorded, a span costs a look at a pointer.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace ropewalk {

// What a span had to do at least.
struct Effort {
  double flops = 0;  // a multiply-add counts two
  double bytes = 0;  // read and written
};

struct TimeSpan {
  enum Kind : uint8_t {
    kPhase,
    kForward,   // an op, by the name that the tape knows
    kBackward,  // its rule
    kKernel,    // a launch, by its arguments' type
    kWait,      // for a transfer, by its label
    kTransfer,  // from its start to its end, beside all others: these do not nest
  } kind;
  std::string_view name;       // of a literal
  int64_t begin = 0, end = 0;  // nanoseconds of the steady clock
  Effort effort{};
  std::string_view place{};  // of the model, as a ModelPlace says
};

int64_t now_ns();

class Timeline {
 public:
  // What records this thread; null: nothing does.
  static Timeline* recording();
  std::string_view place() const { return place_; }

  const std::vector<TimeSpan>& spans() const { return spans_; }
  void add(const TimeSpan& span);
  // An op's forward part is over. It began where the phase, op or rule before it ended.
  void add_forward(const char* op, const Effort& effort);

 private:
  std::vector<TimeSpan> spans_;  // by their ends
  int64_t border_ = now_ns();    // where the next op's forward part begins
  std::string_view place_;
  friend class Phase;
  friend class ModelPlace;
};

// This thread is recorded while this lives.
class Recording {
 public:
  explicit Recording(Timeline& timeline);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  Timeline* before_;
};

// What this thread records while this lives belongs to this place of the model: "layers.3.mamba2". The tape remembers it, so that a rule
// is recorded where its op was. The name outlives the timeline.
class ModelPlace {
 public:
  explicit ModelPlace(std::string_view name) : timeline_(Timeline::recording()) {
    if (timeline_) [[unlikely]]
      before_ = std::exchange(timeline_->place_, name);
  }
  ~ModelPlace() {
    if (timeline_) [[unlikely]]
      timeline_->place_ = before_;
  }
  ModelPlace(const ModelPlace&) = delete;
  ModelPlace& operator=(const ModelPlace&) = delete;

 private:
  Timeline* timeline_;
  std::string_view before_;
};

// A span from here to the end of the scope.
class Phase {
 public:
  explicit Phase(std::string_view name, TimeSpan::Kind kind = TimeSpan::kPhase) : timeline_(Timeline::recording()), span_{kind, name} {
    if (timeline_) [[unlikely]]
      begin();
  }
  ~Phase() {
    if (timeline_) [[unlikely]]
      end();
  }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

  bool recorded() const { return timeline_ != nullptr; }
  void set(const Effort& effort) { span_.effort = effort; }

 private:
  void begin();
  void end();

  Timeline* timeline_;
  TimeSpan span_;
};

// "AdamWStep", of a type of this namespace.
template <class T>
constexpr std::string_view name_of_type() {
  std::string_view name = __PRETTY_FUNCTION__;
  name.remove_prefix(name.find("T = ") + 4);
  name = name.substr(0, name.find_first_of(";]"));
  return name.substr(name.rfind(':') + 1);
}

}  // namespace ropewalk
