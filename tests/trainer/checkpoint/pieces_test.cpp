#include "trainer/checkpoint/pieces.h"

#include "tests/trainer/checkpoint/checkpoint_support.h"

namespace ropewalk::testing {
namespace {

std::string any_bytes(int64_t count, uint64_t seed) {
  const Tensor x = random_bits({count}, DType::kUInt8, seed);
  return {static_cast<const char*>(x.raw()), static_cast<size_t>(count)};
}

FileEntry write_file(const TemporaryFolder& folder, const std::string& name, const std::vector<std::string>& parts) {
  PieceWriter writer(folder / name);
  for (const std::string& part : parts) writer.append(part);
  FileEntry entry = writer.finish();
  entry.name = name;
  return entry;
}

PieceReader reader_of(const TemporaryFolder& folder, const std::vector<FileEntry>& files) {
  return {folder.path(), files, [](int, int64_t, int64_t) { return std::string("something"); }};
}

TEST(Pieces, AreTheSameHoweverTheBytesWereAppended) {
  const TemporaryFolder folder;
  const std::string bytes = any_bytes(2 * kPieceBytes + 5, 1);
  const FileEntry once = write_file(folder, "a", {bytes});
  EXPECT_EQ(once.bytes, static_cast<int64_t>(bytes.size()));
  ASSERT_EQ(once.checksums.size(), 3u);
  EXPECT_EQ(once.checksums[1], checksum(std::string_view(bytes).substr(kPieceBytes, kPieceBytes)));
  for (const size_t at : {size_t{1}, size_t{kPieceBytes}, size_t{kPieceBytes + 1}, bytes.size() - 1}) {
    EXPECT_EQ(write_file(folder, "b", {bytes.substr(0, at), "", bytes.substr(at)}).checksums, once.checksums);
    EXPECT_EQ(content_of(folder / "b"), bytes);
  }
}

TEST(PieceReader, GivesAnyBytesInAnyOrder) {
  const TemporaryFolder folder;
  const std::string bytes = any_bytes(2 * kPieceBytes + 5, 1);
  const std::vector<FileEntry> files = {write_file(folder, "a", {bytes}), write_file(folder, "b", {bytes.substr(7)})};
  PieceReader reader = reader_of(folder, files);
  std::mt19937_64 random(2);
  for (int i = 0; i < 200; ++i) {
    const int file = static_cast<int>(random() % 2);
    const int64_t offset = static_cast<int64_t>(random()) & (2 * kPieceBytes - 1), count = static_cast<int64_t>(random() % 100000);
    const int64_t there = std::min(count, files[file].bytes - offset);
    EXPECT_EQ(reader.copy(file, offset, there), bytes.substr(offset + 7 * file, there));
  }
}

TEST(PieceReader, ChecksTheWholeHeaderBeforeAnyTensor) {
  const TemporaryFolder folder;
  std::string bytes = any_bytes(3 * kPieceBytes, 1);
  std::vector<FileEntry> files = {write_file(folder, "a", {bytes})};
  bytes[kPieceBytes + 3] ^= 1;
  set_content(folder / "a", bytes);
  EXPECT_EQ(reader_of(folder, files).at(0, 2 * kPieceBytes, 1).size(), 1u);
  files[0].header_bytes = kPieceBytes + 1;
  EXPECT_THAT(checkpoint_error([&] { reader_of(folder, files).at(0, 2 * kPieceBytes, 1); }), ::testing::HasSubstr("checksum of piece 1"));
}

TEST(PieceReader, KeepsFewFilesOpen) {
  const TemporaryFolder folder;
  std::vector<FileEntry> files;
  for (int i = 0; i < 300; ++i) files.push_back(write_file(folder, std::to_string(i), {std::to_string(i)}));
  PieceReader reader = reader_of(folder, files);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(reader.copy(i, 0, files[i].bytes), std::to_string(i));
  EXPECT_LT(names_in("/proc/self/fd").size(), 280u);
}

}  // namespace
}  // namespace ropewalk::testing
