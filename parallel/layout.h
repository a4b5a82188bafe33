// Which tokens of a microbatch this rank holds. Each row of seq_len tokens is cut into context x pieces equal pieces; a rank holds `pieces`
// of every row, chosen so that causal attention is balanced: with C ranks, its j-th piece is j C + c for even j, j C + (C - 1 - c) for odd.
// Documents cut pieces further into runs. Only the first run of a piece can continue something; what enters it is entering value
// e = row * pieces + j of that rank (Run::enters).
#pragma once

#include <vector>

#include "kernels/tensor/runs.h"
#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct Layout {
  int64_t rows = 0;           // B
  int64_t length = 0;         // S: this rank's tokens of a row
  int64_t pieces = 1;         // a row
  Runs runs;                  // this rank's: cover each token of [B, S] once, ordered by (row, begin)
  std::vector<Runs> runs_of;  // the same of every rank of the context group
  Tensor position_BS;         // int64: inside the token's document (from where the row, or the sequence in a cache, began)
  int64_t first_sample = 0;   // global index of the first row's sequence: keys anything random

  int64_t entering() const { return rows * pieces; }  // E: how many entering values there are
};

// The piece of a row that is context rank's j-th.
int64_t piece_of(int64_t context_rank, int64_t context_size, int64_t j);

// document_begins: for each row, where documents begin in it, ascending from 0.
Layout make_layout(const std::vector<std::vector<int64_t>>& document_begins, int64_t seq_len, int64_t context_rank, int64_t context_size,
                   int64_t pieces, int64_t first_sample);

// `length` further tokens of `rows` sequences of which `before` tokens were seen (and are in the states) already.
Layout make_decode_layout(int64_t rows, int64_t length, int64_t before);

// This rank's tokens of rows given whole: [B, seq_len] -> [B, S] in the order of its pieces.
Tensor local_tokens(const Tensor& rows, int64_t context_rank, int64_t context_size, int64_t pieces);

}  // namespace ropewalk
