// From the options of a model to its call sites: which core runs where, who shares what.
#pragma once

#include "layers/call_site.h"
#include "layers/options.h"
#include "layers/recompute_policy.h"
#include "parallel/expert_parallel.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

std::vector<CallSite> build_stack(const ModelOptions& options, const TensorParallel& tp, const ExpertParallel& ep,
                                  const RecomputePolicy& recompute);

}  // namespace ropewalk
