#include "parallel/layout.h"

#include <algorithm>

namespace ropewalk {
namespace {

struct Cut {
  int64_t seq_len, ranks, pieces;
  int64_t piece_length() const { return seq_len / (ranks * pieces); }
};

void check(const std::vector<std::vector<int64_t>>& document_begins, const Cut& cut) {
  expect(cut.seq_len % (cut.ranks * cut.pieces) == 0, "layout: {} tokens a row do not divide into {} ranks x {} pieces", cut.seq_len,
         cut.ranks, cut.pieces);
  for (const std::vector<int64_t>& begins : document_begins) {
    expect(!begins.empty() && begins.front() == 0, "layout: expected the first document of a row to begin at 0");
    for (size_t i = 1; i < begins.size(); ++i)
      expect(begins[i] > begins[i - 1] && begins[i] < cut.seq_len,
             "layout: a document begins at {}, after one at {}, in a row of {} tokens", begins[i], begins[i - 1], cut.seq_len);
  }
}

// The runs of piece `piece` of row `row`, which the rank holds as its j-th.
void add_runs(const std::vector<int64_t>& begins, int64_t row, int64_t piece, int64_t j, const Cut& cut, Runs& runs) {
  const int64_t length = cut.piece_length(), begin = piece * length, end = begin + length;
  int64_t document = std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1;
  for (int64_t at = begin; at < end; ++document) {
    const int64_t opened = begins[document];
    const int64_t closed = document + 1 < static_cast<int64_t>(begins.size()) ? begins[document + 1] : cut.seq_len;
    const int64_t until = std::min(closed, end);
    runs.push_back({.row = row,
                    .begin = j * length + at - begin,
                    .length = until - at,
                    .position = at - opened,
                    .document = document,
                    .enters = at > opened ? row * cut.pieces + j : -1,
                    .closes = until == closed});
    at = until;
  }
}

Runs runs_of_rank(const std::vector<std::vector<int64_t>>& document_begins, int64_t rank, const Cut& cut) {
  Runs runs;
  for (int64_t row = 0; row < static_cast<int64_t>(document_begins.size()); ++row)
    for (int64_t j = 0; j < cut.pieces; ++j) add_runs(document_begins[row], row, piece_of(rank, cut.ranks, j), j, cut, runs);
  return runs;
}

Tensor positions_of(const Runs& runs, int64_t rows, int64_t length) {
  Tensor position_BS = Tensor::empty({rows, length}, DType::kInt64);
  int64_t* const position = position_BS.data<int64_t>();
  for (const Run& run : runs)
    for (int64_t i = 0; i < run.length; ++i) position[run.row * length + run.begin + i] = run.position + i;
  return position_BS;
}

}  // namespace

int64_t piece_of(int64_t context_rank, int64_t context_size, int64_t j) {
  return j * context_size + (j % 2 == 0 ? context_rank : context_size - 1 - context_rank);
}

Layout make_layout(const std::vector<std::vector<int64_t>>& document_begins, int64_t seq_len, int64_t context_rank, int64_t context_size,
                   int64_t pieces, int64_t first_sample) {
  const Cut cut{.seq_len = seq_len, .ranks = context_size, .pieces = pieces};
  check(document_begins, cut);
  Layout layout;
  layout.rows = static_cast<int64_t>(document_begins.size());
  layout.length = pieces * cut.piece_length();
  layout.pieces = pieces;
  for (int64_t rank = 0; rank < context_size; ++rank) layout.runs_of.push_back(runs_of_rank(document_begins, rank, cut));
  layout.runs = layout.runs_of[context_rank];
  layout.position_BS = positions_of(layout.runs, layout.rows, layout.length);
  layout.first_sample = first_sample;
  return layout;
}

Layout make_decode_layout(int64_t rows, int64_t length, int64_t before) {
  Layout layout;
  layout.rows = rows;
  layout.length = length;
  for (int64_t row = 0; row < rows; ++row)
    layout.runs.push_back({.row = row, .begin = 0, .length = length, .position = before, .enters = before == 0 ? -1 : row});
  layout.runs_of = {layout.runs};
  layout.position_BS = positions_of(layout.runs, rows, length);
  return layout;
}

Tensor local_tokens(const Tensor& rows, int64_t context_rank, int64_t context_size, int64_t pieces) {
  const int64_t length = rows.dim(1) / (context_size * pieces);
  Tensors mine;
  for (int64_t j = 0; j < pieces; ++j) mine.push_back(rows.narrow(1, piece_of(context_rank, context_size, j) * length, length));
  return concat(mine, 1);
}

}  // namespace ropewalk
