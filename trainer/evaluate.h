// Validation: the cross-entropy of all held-out tokens, and of recall tasks the share of answers that are right.
#pragma once

#include "data/dataset.h"
#include "trainer/rank_model.h"

namespace ropewalk {

struct Evaluation {
  double nats = 0;  // summed over all scored targets
  double targets = 0;
  std::optional<int64_t> bytes;  // of the text behind the targets, where there is one
  std::optional<double> right;   // targets with the largest logit; of recall tasks

  double loss() const { return nats / targets; }
  // With the ends of documents paid for too. None where there is no text.
  std::optional<double> bits_per_byte() const;
  std::optional<double> accuracy() const;
  // "val_loss 0.1234  bits_per_byte 1.2345  val_accuracy 0.99", as far as there is something to say.
  std::string describe() const;
};

// Over the validation rows of a dataset that has some; they are dealt to the data ranks in blocks of `block`. Collective.
Evaluation evaluate(const RankModel& model, const Dataset& data, int64_t block);

}  // namespace ropewalk
