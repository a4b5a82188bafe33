#include "parallel/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace ropewalk {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string as_text(const Run& r) {
  return fmt::format("row {} begin {} length {} position {} document {} enters {} closes {}", r.row, r.begin, r.length, r.position,
                     r.document, r.enters, r.closes);
}

TEST(Layout, DealsPiecesSoThatCausalWorkIsEven) {
  std::vector<int64_t> work(4);  // keys before each rank's pieces
  std::set<int64_t> pieces;
  for (int64_t rank = 0; rank < 4; ++rank)
    for (int64_t j = 0; j < 2; ++j) {
      pieces.insert(piece_of(rank, 4, j));
      work[rank] += piece_of(rank, 4, j);
    }
  EXPECT_EQ(pieces.size(), 8u);
  EXPECT_EQ(*pieces.rbegin(), 7);
  EXPECT_EQ(work, std::vector<int64_t>(4, 7));
}

TEST(Layout, CutsDocumentsIntoRuns) {
  // Rank 1 of 2 with two pieces of four tokens: [4, 8) and [8, 12) of each row of 16.
  const Layout layout = make_layout({{0, 3, 8}, {0, 6, 7}}, 16, 1, 2, 2, 40);
  EXPECT_EQ(layout.rows, 2);
  EXPECT_EQ(layout.length, 8);
  EXPECT_EQ(layout.entering(), 4);
  EXPECT_EQ(layout.first_sample, 40);
  std::vector<std::string> runs;
  for (const auto& run : layout.runs) runs.push_back(as_text(run));
  EXPECT_THAT(runs, ::testing::ElementsAre("row 0 begin 0 length 4 position 1 document 1 enters 0 closes true",
                                           "row 0 begin 4 length 4 position 0 document 2 enters -1 closes false",
                                           "row 1 begin 0 length 2 position 4 document 0 enters 2 closes true",
                                           "row 1 begin 2 length 1 position 0 document 1 enters -1 closes true",
                                           "row 1 begin 3 length 1 position 0 document 2 enters -1 closes false",
                                           "row 1 begin 4 length 4 position 1 document 2 enters 3 closes false"));
  EXPECT_EQ(layout.position_BS.to_vector<int64_t>(), (std::vector<int64_t>{1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3, 4}));
}

TEST(Layout, CoversEveryTokenOnceOverTheRanks) {
  const std::vector<std::vector<int64_t>> begins = {{0, 1, 2, 11, 12, 13, 23}, {0}};
  for (const auto& [ranks, pieces] : {std::pair{1, 1}, {1, 2}, {2, 3}, {3, 2}, {4, 1}}) {
    const Tensor tokens = Tensor::empty({2, 24}, DType::kInt64);
    for (int64_t i = 0; i < 48; ++i) tokens.data<int64_t>()[i] = i;
    std::multiset<int64_t> seen, closed;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const Layout layout = make_layout(begins, 24, rank, ranks, pieces, 0);
      const auto local = local_tokens(tokens, rank, ranks, pieces).to_vector<int64_t>();
      int64_t next = 0;
      for (const auto& run : layout.runs_of[rank]) {
        EXPECT_EQ(run.row * layout.length + run.begin, next);  // ordered, without gaps
        next += run.length;
        for (int64_t i = 0; i < run.length; ++i) {
          const int64_t token = local[run.row * layout.length + run.begin + i];
          seen.insert(token);
          EXPECT_EQ(token, 24 * run.row + begins[run.row][run.document] + run.position + i);
        }
        if (run.closes) closed.insert(100 * run.row + run.document);
      }
    }
    EXPECT_EQ(seen.size(), 48u);
    EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), 48u);
    EXPECT_EQ(closed, (std::multiset<int64_t>{0, 1, 2, 3, 4, 5, 6, 100}));
  }
}

TEST(Layout, NamesWhatDoesNotFit) {
  EXPECT_THAT([] { make_layout({{0}}, 18, 0, 2, 2, 0); },
              ThrowsMessage<ShapeError>(HasSubstr("18 tokens a row do not divide into 2 ranks x 2 pieces")));
  EXPECT_THAT([] { make_layout({{1}}, 16, 0, 2, 2, 0); }, ThrowsMessage<ShapeError>(HasSubstr("begin at 0")));
  EXPECT_THAT([] { make_layout({{0, 5, 5}}, 16, 0, 2, 2, 0); }, ThrowsMessage<ShapeError>(HasSubstr("begins at 5, after one at 5")));
  EXPECT_THAT([] { make_layout({{0, 16}}, 16, 0, 2, 2, 0); }, ThrowsMessage<ShapeError>(HasSubstr("in a row of 16")));
}

TEST(DecodeLayout, ContinuesWhatWasSeen) {
  const Layout first = make_decode_layout(2, 3, 0), later = make_decode_layout(2, 1, 3);
  for (int64_t row = 0; row < 2; ++row) {
    EXPECT_TRUE(first.runs[row].opens());
    EXPECT_EQ(later.runs[row].enters, row);
    EXPECT_EQ(later.runs[row].position, 3);
  }
  EXPECT_EQ(first.position_BS.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(later.position_BS.to_vector<int64_t>(), (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(later.entering(), 2);
}

}  // namespace
}  // namespace ropewalk
