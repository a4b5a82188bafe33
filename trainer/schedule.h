// A learning-rate schedule: the factor on the peak LR at each step of the run.
#pragma once

#include "trainer/options.h"

namespace ropewalk {

// step in [0, steps). Warm-up of w steps: step s uses (s + 1) / w. After it:
//   constant  1
//   cosine    from 1 at the first step after warm-up down to `final` at the end of the run
//   wsd       1, then over the last `decay` steps down to `final` by shape: with x in (0, 1] the share of the decay that is done,
//             linear 1 - x, sqrt 1 - sqrt(x) (Haegele et al. 2024), cosine (1 + cos(pi x)) / 2
double schedule_factor(const ScheduleOptions& schedule, int64_t step, int64_t steps);

}  // namespace ropewalk
