#include "trainer/spike_filter.h"

#include <fmt/format.h>

#include <cmath>
#include <sstream>

namespace ropewalk {

bool SpikeFilter::above(double value, double Step::*field) const {
  const auto count = static_cast<double>(taken_.size());
  double sum = 0, squares = 0;
  for (const Step& step : taken_) sum += step.*field;
  const double mean = sum / count;
  for (const Step& step : taken_) squares += (step.*field - mean) * (step.*field - mean);
  return value > mean + options_.sigma * std::sqrt(squares / (count - 1));
}

bool SpikeFilter::stands_out(double loss, double grad_norm) {
  const bool enough = std::ssize(taken_) >= std::max<int64_t>(2, options_.window / 2);
  if (enough && (above(loss, &Step::loss) || above(grad_norm, &Step::grad_norm))) return true;
  taken_.push_back({loss, grad_norm});
  if (std::ssize(taken_) > options_.window) taken_.pop_front();
  return false;
}

std::string SpikeFilter::state() const {
  std::string text;
  for (const Step& step : taken_) text += fmt::format("{} {}\n", step.loss, step.grad_norm);
  return text;
}

void SpikeFilter::restore(const std::string& state) {
  taken_.clear();
  std::istringstream text(state);
  for (Step step{}; text >> step.loss >> step.grad_norm;) taken_.push_back(step);
}

}  // namespace ropewalk
