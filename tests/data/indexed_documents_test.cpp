#include "data/indexed_documents.h"

#include <gmock/gmock.h>

#include <limits>
#include <random>

#include "data/indexed_writer.h"
#include "tests/data/files.h"
#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using testing::contents;
using testing::data_error;
using ::testing::ElementsAre;
using testing::Ints;

class IndexedDocumentsTest : public testing::FilesTest {
 protected:
  std::string written(const std::vector<std::vector<Token>>& documents, TokenType type = TokenType::kUInt16) const {
    IndexedWriter writer(path("data"), type);
    for (const auto& document : documents) writer.append(document);
    writer.finish();
    return path("data");
  }
  static std::shared_ptr<const IndexedFile> opened(const std::string& prefix, std::optional<Token> end = 9) {
    return std::make_shared<IndexedFile>(prefix, 100, end);
  }
  static std::vector<Ints> all_of(const Documents& documents) {
    std::vector<Ints> all;
    for (int64_t d = 0; d < documents.count(); ++d) all.push_back(contents(documents, d));
    return all;
  }
  // Ten documents: 0 9, 10 9, 20 9, ..
  static std::vector<std::vector<Token>> tens() {
    std::vector<std::vector<Token>> documents;
    for (Token d = 0; d < 10; ++d) documents.push_back({d * 10, 9});
    return documents;
  }
};

TEST_F(IndexedDocumentsTest, AreReadInEveryType) {
  for (const TokenType type :
       {TokenType::kUInt8, TokenType::kInt8, TokenType::kInt16, TokenType::kInt32, TokenType::kInt64, TokenType::kUInt16}) {
    const auto documents = hold_out(opened(written({{1, 2, 99}, {}, {4}}, type), std::nullopt), 0).train;
    EXPECT_THAT(all_of(*documents), ElementsAre(Ints{1, 2, 99}, Ints{}, Ints{4}));
    EXPECT_EQ(documents->tokens(), 4);
    Ints part(1);
    documents->read(0, 1, part);
    EXPECT_EQ(part, Ints{2});
  }
}

TEST_F(IndexedDocumentsTest, LeaveOutTheEndsThatAreStored) {
  const auto documents = hold_out(opened(written({{1, 2, 9}, {9}, {3, 9}})), 0).train;
  EXPECT_THAT(all_of(*documents), ElementsAre(Ints{1, 2}, Ints{}, Ints{3}));
  EXPECT_EQ(documents->tokens(), 3);
  EXPECT_EQ(documents->end_of_document(), 9);
  EXPECT_THAT(all_of(*hold_out(opened(written({{1, 2}, {3}})), 0).train), ElementsAre(Ints{1, 2}, Ints{3}));
}

TEST_F(IndexedDocumentsTest, RefuseEndsBehindSomeDocumentsOnly) {
  EXPECT_EQ(data_error([&] {
              opened(written({{1, 9}, {2, 9}, {3}}));
            }),
            path("data.bin") + ": document 2: expected an end of document (9) behind all documents or behind none, given 3");
  std::vector<std::vector<Token>> many(200, {1, 9});  // of which not all are looked at when the file is opened
  many[101] = {5, 6};
  const auto documents = hold_out(opened(written(many)), 0).train;
  EXPECT_EQ(contents(*documents, 100), Ints{1});
  EXPECT_EQ(data_error([&] { contents(*documents, 101); }),
            path("data.bin") + ": offset 406: expected an end of document (9), as behind other documents, given 6");
}

TEST_F(IndexedDocumentsTest, HoldOutTheLastOfEveryPeriod) {
  const IndexedSplit split = hold_out(opened(written(tens())), 0.3);
  EXPECT_THAT(all_of(*split.train), ElementsAre(Ints{0}, Ints{10}, Ints{30}, Ints{40}, Ints{60}, Ints{70}, Ints{90}));
  EXPECT_THAT(all_of(*split.validation), ElementsAre(Ints{20}, Ints{50}, Ints{80}));
  EXPECT_EQ(split.validation->tokens(), 3);
  EXPECT_NE(split.train->digest(), split.validation->digest());
}

TEST_F(IndexedDocumentsTest, HoldOutTheLastTokensOfFewDocuments) {
  const IndexedSplit split = hold_out(opened(written({{1, 2, 3, 9}, {4, 5, 6, 7, 8, 9}})), 0.4);  // 4 of 10 tokens
  EXPECT_THAT(all_of(*split.train), ElementsAre(Ints{1, 2, 3}, Ints{4, 5}));
  EXPECT_THAT(all_of(*split.validation), ElementsAre(Ints{6, 7, 8}));
  const IndexedSplit between = hold_out(opened(written({{1, 2, 3, 9}, {4, 5, 6, 7, 8, 9}})), 0.45);  // rounds to 5
  EXPECT_THAT(all_of(*between.validation), ElementsAre(Ints{5, 6, 7, 8}));
}

TEST_F(IndexedDocumentsTest, RefuseToLeaveNothing) {
  EXPECT_EQ(data_error([&] { hold_out(opened(written(tens())), 0.9); }),
            "data.validation: 0.9 of 10 documents (20 tokens) leaves nothing for training; change the share or give more text");
  EXPECT_EQ(data_error([&] { hold_out(opened(written(tens())), 0.001); }),
            "data.validation: 0.001 of 10 documents (20 tokens) leaves nothing for validation; change the share or give more text");
}

TEST_F(IndexedDocumentsTest, RefuseATokenOutsideTheVocabulary) {
  const auto documents = hold_out(opened(written({{1, 2, 100, 3}}), std::nullopt), 0).train;
  EXPECT_EQ(data_error([&] { contents(*documents, 0); }),
            path("data.bin") + ": offset 4: expected a token of 0 to 99 (model.tokenizer), given 100");
  const auto negative = hold_out(opened(written({{1, -2}}, TokenType::kInt32), std::nullopt), 0).train;
  EXPECT_EQ(data_error([&] { contents(*negative, 0); }),
            path("data.bin") + ": offset 4: expected a token of 0 to 99 (model.tokenizer), given -2");
}

TEST_F(IndexedDocumentsTest, RefuseTokensThatDoNotFitTheIndex) {
  const std::string prefix = written({{1, 2, 3}});
  EXPECT_EQ(data_error([&] { opened(write("data.bin", "12345").substr(0, prefix.size())); }),
            path("data.bin") + ": expected 6 bytes (3 tokens of 2 in " + path("data.idx") + "), given 5");
  std::filesystem::remove(path("data.bin"));
  EXPECT_EQ(data_error([&] { opened(prefix); }), path("data.bin") + ": cannot be read: No such file or directory");
}

TEST_F(IndexedDocumentsTest, DigestDependsOnTokensBordersAndEnd) {
  const auto digest = [&](const std::vector<std::vector<Token>>& documents, std::optional<Token> end = std::nullopt) {
    return hold_out(opened(written(documents), end), 0).train->digest();
  };
  const uint64_t first = digest({{1, 2}, {3}});
  EXPECT_EQ(digest({{1, 2}, {3}}), first);
  EXPECT_NE(digest({{1, 2}, {4}}), first);
  EXPECT_NE(digest({{1}, {2, 3}}), first);
  EXPECT_NE(digest({{1, 2}, {3}}, 9), first);
}

}  // namespace
}  // namespace ropewalk
