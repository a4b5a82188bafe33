// A learning-rate schedule: the factor on the peak LR at each step of the run.
#pragma once

#include "trainer/options.h"

namespace ropewalk {

// step s in [0, steps). Warm-up of w steps: step s uses (s + 1) / w. After it, with f = `final`:
//   constant      1
//   linear        f + (1 - f) (1 - x), where x in [0, 1) is the share of the steps after warm-up that is done before this one
//   cosine        f + (1 - f) (1 + cos(pi x)) / 2, x as above (Loshchilov & Hutter 2017)
//   wsd           1, then over the last `decay` steps f + (1 - f) g(x): with x in (0, 1] the share of the decay that is done with this
//   step,
//                 g is linear 1 - x, sqrt 1 - sqrt(x) (Haegele et al. 2024), or cosine (1 + cos(pi x)) / 2
//   inverse_sqrt  max(f, sqrt(max(w, 1) / (s + 1))) (Vaswani et al. 2017): 1 where warm-up ends
double schedule_factor(const ScheduleOptions& schedule, int64_t step, int64_t steps);

}  // namespace ropewalk
