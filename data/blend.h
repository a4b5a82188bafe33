// Sequences from several sources in given shares.
#pragma once

#include <memory>
#include <vector>

#include "data/sequence.h"

namespace ropewalk {

// Which source each sequence of a blend comes from. Of the first n sequences, source s gives weight_s n up to an error below one, for
// every n: Tijdeman's rule (1980, "The chairman assignment problem", Discrete Mathematics 32).
class BlendOrder {
 public:
  // Positive weights; they are divided by their sum.
  explicit BlendOrder(std::vector<double> weights);

  struct Draw {
    size_t source;
    int64_t index;  // how many sequences it gave before
  };
  // Goes on from the last i asked for, or from 0 where that lies behind: a sequence passed over costs some nanoseconds.
  Draw at(int64_t i) const;

 private:
  size_t next() const;  // the source of sequence drawn_

  std::vector<double> weights_;
  mutable int64_t drawn_ = 0;
  mutable std::vector<int64_t> drawn_from_;  // of the first drawn_ sequences
};

class Blend final : public Sequences {
 public:
  Blend(std::vector<double> weights, std::vector<std::unique_ptr<Sequences>> sources);

  Sequence at(int64_t i) const override;
  uint64_t digest() const override;
  int64_t tokens() const override;

 private:
  std::vector<double> weights_;
  BlendOrder order_;
  std::vector<std::unique_ptr<Sequences>> sources_;
};

// Rows of several sources, one source after the other.
class RowsInTurn final : public ScoredRows {
 public:
  explicit RowsInTurn(std::vector<std::unique_ptr<ScoredRows>> sources) : sources_(std::move(sources)) {}

  int64_t count() const override;
  Sequence at(int64_t i) const override;

 private:
  std::vector<std::unique_ptr<ScoredRows>> sources_;
};

}  // namespace ropewalk
