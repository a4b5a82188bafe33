// From sequences to the microbatches of this rank: which rows are its data rank's, which tokens its context rank's.
#pragma once

#include "data/sequence.h"
#include "parallel/context.h"
#include "parallel/mesh.h"

namespace ropewalk {

// Rows given whole; the layout and the tokens kept are this context rank's.
Microbatch make_microbatch(const std::vector<Sequence>& rows, const Mesh& mesh, int64_t pieces, int64_t first_sample);

// The microbatches of one optimizer step on this rank. Step s takes the sequences [s batch, (s + 1) batch); the m-th microbatch of data
// rank d takes `micro_batch` of them from s batch + (m data + d) micro_batch on.
struct BatchPlan {
  int64_t batch = 0, micro_batch = 0, pieces = 1;
};
std::vector<Microbatch> make_batches(const std::function<Sequence(int64_t)>& sequence, int64_t step, const BatchPlan& plan,
                                     const Mesh& mesh);

int64_t count_targets(const std::vector<Microbatch>& batches);

}  // namespace ropewalk
