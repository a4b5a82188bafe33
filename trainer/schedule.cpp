#include "trainer/schedule.h"

#include <cmath>
#include <numbers>

namespace ropewalk {
namespace {

double steps_of(double length, int64_t steps) { return length < 1 ? std::round(length * static_cast<double>(steps)) : length; }

double half_cosine(double x) { return (1 + std::cos(std::numbers::pi * x)) / 2; }

double decayed(ScheduleOptions::Shape shape, double x) {
  switch (shape) {
    case ScheduleOptions::kSqrtDecay: return 1 - std::sqrt(x);
    case ScheduleOptions::kLinearDecay: return 1 - x;
    case ScheduleOptions::kCosineDecay: return half_cosine(x);
  }
  return 1;
}

}  // namespace

double schedule_factor(const ScheduleOptions& schedule, int64_t step, int64_t steps) {
  const auto s = static_cast<double>(step), total = static_cast<double>(steps);
  const double warmup = steps_of(schedule.warmup, steps);
  if (s < warmup) return (s + 1) / warmup;
  const auto towards_final = [&](double factor) { return schedule.final + (1 - schedule.final) * factor; };
  const double done = (s - warmup) / std::max(1.0, total - warmup);
  switch (schedule.type) {
    case ScheduleOptions::kConstant: return 1;
    case ScheduleOptions::kLinear: return towards_final(1 - done);
    case ScheduleOptions::kCosine: return towards_final(half_cosine(done));
    case ScheduleOptions::kInverseSqrt: return std::max(schedule.final, std::sqrt(std::max(warmup, 1.0) / (s + 1)));
    case ScheduleOptions::kWsd: {
      const double decay = steps_of(schedule.decay, steps), begun = s + 1 - (total - decay);
      return begun <= 0 ? 1 : towards_final(decayed(schedule.shape, begun / decay));
    }
  }
  return 1;
}

}  // namespace ropewalk
