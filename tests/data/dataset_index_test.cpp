#include "data/dataset_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "data/indexed_writer.h"
#include "tests/data/files.h"

namespace ropewalk {
namespace {

using testing::data_error;

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// An index as the format says, of uint16 tokens.
std::string packed(const std::vector<int32_t>& lengths, const std::vector<int64_t>& firsts) {
  std::string bytes("MMIDIDX\0\0", 9);
  put<uint64_t>(bytes, 1);
  put<uint8_t>(bytes, 8);
  put<uint64_t>(bytes, lengths.size());
  put<uint64_t>(bytes, firsts.size());
  for (const int32_t length : lengths) put(bytes, length);
  int64_t pointer = 0;
  for (const int32_t length : lengths) {
    put(bytes, pointer);
    pointer += 2 * length;
  }
  for (const int64_t first : firsts) put(bytes, first);
  return bytes;
}

DatasetIndex index_of(const std::string& bytes) { return {std::as_bytes(std::span(bytes)), "x.idx"}; }

template <class T>
std::string with(std::string bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

// Three sequences in two documents: lengths at 34, pointers at 46, documents at 70, 94 bytes.
const std::string kIndex = packed({3, 0, 5}, {0, 2, 3});

TEST(DatasetIndex, FindsDocuments) {
  const DatasetIndex index = index_of(kIndex);
  EXPECT_EQ(index.type(), TokenType::kUInt16);
  EXPECT_EQ(index.tokens(), 8);
  EXPECT_EQ(index.documents(), 2);
  EXPECT_EQ(index.begin_of(0), 0);
  EXPECT_EQ(index.begin_of(1), 3);
  EXPECT_EQ(index.begin_of(2), 8);
}

TEST(DatasetIndex, MayBeEmpty) {
  const std::string bytes = packed({}, {0});
  EXPECT_EQ(index_of(bytes).documents(), 0);
  EXPECT_EQ(index_of(bytes).tokens(), 0);
  EXPECT_EQ(index_of(bytes).begin_of(0), 0);
}

TEST(DatasetIndex, NamesEveryFieldThatIsWrong) {
  const auto error = [](const std::string& bytes) { return data_error([&] { index_of(bytes); }); };
  EXPECT_EQ(error(""), "x.idx: offset 0: header: expected 34 bytes, given the end of the file");
  EXPECT_EQ(error(kIndex.substr(0, 33)), "x.idx: offset 33: header: expected 34 bytes, given the end of the file");
  EXPECT_EQ(error(with(kIndex, 2, 'x')), "x.idx: offset 0: magic: expected MMIDIDX, given something else");
  EXPECT_EQ(error(with<uint64_t>(kIndex, 9, 2)), "x.idx: offset 9: version: expected 1, given 2");
  EXPECT_EQ(error(with<uint8_t>(kIndex, 17, 6)), "x.idx: offset 17: dtype: expected a code of integers (1 to 5, or 8), given 6");
  EXPECT_EQ(error(with<uint64_t>(kIndex, 18, uint64_t{1} << 63)),
            "x.idx: offset 18: sequences: expected at most 281474976710656, given 9223372036854775808");
  EXPECT_EQ(error(with<uint64_t>(kIndex, 26, 0)), "x.idx: offset 26: documents + 1: expected 1 to 281474976710656, given 0");
  EXPECT_EQ(error(with<uint64_t>(kIndex, 18, 4)), "x.idx: offset 94: end of the file: expected 106 bytes, given 94 bytes");
  EXPECT_EQ(error(kIndex.substr(0, 93)), "x.idx: offset 93: end of the file: expected 94 bytes, given 93 bytes");
  EXPECT_EQ(error(kIndex + "abc"), "x.idx: offset 94: end of the file: expected 94 bytes, given 97 bytes");
  EXPECT_EQ(error(with<int32_t>(kIndex, 38, -1)), "x.idx: offset 38: length of sequence 1: expected 0 or more, given -1");
  EXPECT_EQ(error(with<int32_t>(kIndex, 34, 4)), "x.idx: offset 54: pointer of sequence 1: expected 8, given 6");
  EXPECT_EQ(error(with<int64_t>(kIndex, 46, 2)), "x.idx: offset 46: pointer of sequence 0: expected 0, given 2");
  EXPECT_EQ(error(with<int64_t>(kIndex, 70, 1)), "x.idx: offset 70: first sequence of document 0: expected 0, given 1");
  EXPECT_EQ(error(with<int64_t>(kIndex, 78, 4)), "x.idx: offset 78: first sequence of document 1: expected 0 to 3, given 4");
  EXPECT_EQ(error(with<int64_t>(kIndex, 78, -1)), "x.idx: offset 78: first sequence of document 1: expected 0 to 3, given -1");
  EXPECT_EQ(error(with<int64_t>(kIndex, 86, 2)), "x.idx: offset 86: end of the last document: expected 3, given 2");
  EXPECT_EQ(error(packed({1, 1, 1}, {0, 2, 1, 3})), "x.idx: offset 86: first sequence of document 2: expected 2 to 3, given 1");
}

// Whatever the bytes, the answer is an error or an index that stays inside its file.
TEST(DatasetIndex, MeetsAnyDamageWithAnError) {
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = kIndex;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips)
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    try {
      const DatasetIndex index = index_of(bytes);
      for (int64_t d = 0; d < index.documents(); ++d) EXPECT_LE(index.begin_of(d), index.begin_of(d + 1));
      EXPECT_EQ(index.begin_of(index.documents()), index.tokens());
    } catch (const DataError& error) {
      EXPECT_EQ(std::string(error.what()).find("x.idx: offset "), 0u);
      ++refused;
    }
  }
  EXPECT_GT(refused, 19'000);
}

class IndexedWriterTest : public testing::FilesTest {};

TEST_F(IndexedWriterTest, WritesTheFormat) {
  IndexedWriter writer(path("data"), TokenType::kUInt16);
  writer.append(std::vector<Token>{7, 65535, 0});
  writer.append(std::vector<Token>{});
  writer.append(std::vector<Token>{1, 2, 3, 4, 5});
  EXPECT_EQ(names(), (std::vector<std::string>{"data.bin.partial", "data.idx.partial"}));
  writer.finish();
  EXPECT_EQ(read("data.idx"), packed({3, 5}, {0, 1, 1, 2}));
  EXPECT_EQ(read("data.bin"), std::string("\7\0\xff\xff\0\0\1\0\2\0\3\0\4\0\5\0", 16));
  EXPECT_EQ(names(), (std::vector<std::string>{"data.bin", "data.idx"}));
}

TEST_F(IndexedWriterTest, LeavesNothingWhereItDidNotFinish) {
  write("data.idx", "old");
  {
    IndexedWriter writer(path("data"), TokenType::kInt32);
    writer.append(std::vector<Token>{1});
  }
  EXPECT_EQ(names(), (std::vector<std::string>{"data.idx"}));
  EXPECT_EQ(read("data.idx"), "old");
}

TEST_F(IndexedWriterTest, SaysThatAFolderIsMissing) {
  EXPECT_EQ(data_error([&] { IndexedWriter(path("none/data"), TokenType::kInt32); }),
            path("none/data.bin") + ": cannot be written: No such file or directory");
}

}  // namespace
}  // namespace ropewalk
