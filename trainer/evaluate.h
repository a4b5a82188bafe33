// Validation: the cross-entropy of all held-out tokens.
#pragma once

#include "data/validation_rows.h"
#include "trainer/rank_model.h"

namespace ropewalk {

struct Evaluation {
  double nats = 0;  // summed over all scored targets
  double targets = 0;
  double loss() const { return nats / targets; }
  // Per byte of text, with the ends of documents paid for too.
  double bits_per_byte(int64_t bytes) const;
};

// Rows are dealt to the data ranks in blocks of `block`. Collective.
Evaluation evaluate(const RankModel& model, const ValidationRows& rows, int64_t block);

}  // namespace ropewalk
