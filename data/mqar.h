// Multi-query associative recall (Arora et al. 2023, "Zoology"), a task that tells mixers apart by what they can recall.
//
// An example of length T with K pairs over V token ids opens with k1 v1 .. kK vK: distinct keys from [1, V/2), distinct values from
// [V/2, V). Of the (T - 2K) / 2 slots of two tokens behind them, K distinct ones are drawn, slot s = 1, 2, .. with probability
// proportional to power_a s^(power_a - 1); the i-th drawn repeats key i at its first position, and there value i is the target. Nothing
// else is scored. All other positions hold 0, or with random_non_queries an id drawn from [0, V).
//
// Where T is shorter than the row, a row holds as many examples of its kind as fit, each a document of its own.
#pragma once

#include "data/options.h"
#include "data/sequence.h"

namespace ropewalk {

// Rows of the examples of some kinds, kind after kind.
class MqarRows final : public ScoredRows {
 public:
  // `stream` names the examples: of two streams no example is the same but by chance.
  MqarRows(const MqarSource& options, const std::vector<MqarKind>& kinds, uint64_t seed, std::string stream, int64_t seq_len, bool packed);

  int64_t count() const override { return rows_; }
  Sequence at(int64_t i) const override;

 private:
  struct Drawer;
  void append_example(size_t kind, int64_t example, Sequence& row) const;

  MqarSource options_;
  std::vector<MqarKind> kinds_;
  uint64_t seed_;
  std::string stream_;
  int64_t seq_len_, rows_ = 0;
  bool packed_;
};

// The training examples: epochs over all rows, each in an order of its own.
class MqarSequences final : public Sequences {
 public:
  MqarSequences(const MqarSource& options, uint64_t seed, int64_t seq_len, bool packed);

  Sequence at(int64_t i) const override;
  uint64_t digest() const override;
  int64_t tokens() const override { return rows_.count() * seq_len_; }

 private:
  MqarRows rows_;
  MqarSource options_;
  uint64_t seed_;
  int64_t seq_len_;
};

// The test examples: the same whatever the seed of the run.
MqarRows mqar_test(const MqarSource& options, int64_t seq_len, bool packed);

}  // namespace ropewalk
