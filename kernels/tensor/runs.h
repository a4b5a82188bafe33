// Which tokens belong together. A packed row holds several documents; a rank may hold several pieces of a row. To an op that mixes along
// the sequence both are the same thing: a list of runs. A run is a stretch of neighbouring tokens of one document on one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/error.h"

namespace ropewalk {

struct Run {
  int64_t row = 0;    // of the local batch
  int64_t begin = 0;  // first token: index into this rank's tokens of the row, [0, S)
  int64_t length = 0;
  int64_t position = 0;  // of the first token, inside its document
  int64_t document = 0;  // inside the row
  int64_t enters =
      -1;  // which entering value (state, halo) this run continues from; -1: it opens a document and starts from the reset value
  bool closes = false;  // the document ends with this run

  bool opens() const { return enters < 0; }
};

using Runs = std::vector<Run>;

// Throws unless the runs lie inside [rows, tokens] and number its tokens: an op that walks them then leaves nothing unwritten.
inline void expect_runs_cover(const char* op, const Runs& runs, int64_t rows, int64_t tokens) {
  int64_t covered = 0;
  for (const Run& run : runs) {
    expect(run.row >= 0 && run.row < rows && run.begin >= 0 && run.length >= 0 && run.begin + run.length <= tokens,
           "{}: runs: expected tokens of [{}, {}], given row {}, [{}, {})", op, rows, tokens, run.row, run.begin, run.begin + run.length);
    covered += run.length;
  }
  expect(covered == rows * tokens, "{}: runs: expected to cover {} x {} tokens, given {}", op, rows, tokens, covered);
}

// The keys that one run of queries may see: in `keys`, always causal by position. A key run with positions [p, p + n) is seen by query
// position q up to and including q, and, with a window w, down to q - w + 1.
struct KeyRun {
  int64_t row = 0;    // of the key tensor
  int64_t begin = 0;  // first key: index into the key tensor's tokens of the row
  int64_t length = 0;
  int64_t position = 0;  // of the first key, inside the document
};
struct QueryRun {
  int64_t row = 0, begin = 0, length = 0, position = 0;
  std::vector<KeyRun> keys;  // of the same document, in order of position
};
using Spans = std::vector<QueryRun>;

}  // namespace ropewalk
