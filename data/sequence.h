// Rows of tokens as the trainer gets them.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk {

struct Sequence {
  static constexpr int64_t kIgnored = -1;  // a target that is not scored

  std::vector<int64_t> tokens, targets;  // [seq_len]
  std::vector<int64_t> document_begins;  // ascending, the first is 0: a row always starts afresh
};

// The training data as a pure function: sequence i depends on (seed, digest, i) and on nothing that was asked before, so a run's data
// cursor is one integer and any rank can compute any sequence. Not thread-safe: at() may keep what the next one needs.
class Sequences {
 public:
  virtual ~Sequences() = default;
  virtual Sequence at(int64_t i) const = 0;  // any i from 0 on
  virtual uint64_t digest() const = 0;       // of what the sequences are made of, and how
  virtual int64_t tokens() const = 0;        // that a pass over all of it reads
};

// Rows to be scored once each.
class ScoredRows {
 public:
  virtual ~ScoredRows() = default;
  virtual int64_t count() const = 0;
  virtual Sequence at(int64_t i) const = 0;  // i in [0, count)
};

}  // namespace ropewalk
