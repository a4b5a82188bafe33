// Finds the steps whose loss or gradient norm stands out from the steps before: they are skipped, as OLMo's SkipStepOptimizer does
// (OLMo 2, arXiv 2501.00656).
#pragma once

#include <deque>
#include <string>

#include "trainer/options.h"

namespace ropewalk {

class SpikeFilter {
 public:
  explicit SpikeFilter(const SpikeOptions& options) : options_(options) {}

  // Whether loss or norm is more than `sigma` standard deviations above its mean over the last `window` steps taken. Never before half a
  // window of them. A step that does not stand out is taken.
  bool stands_out(double loss, double grad_norm);

  // For a checkpoint: the steps that a resumed run compares with.
  std::string state() const;
  void restore(const std::string& state);

 private:
  struct Step {
    double loss, grad_norm;
  };
  bool above(double value, double Step::*field) const;

  SpikeOptions options_;
  std::deque<Step> taken_;
};

}  // namespace ropewalk
