#include "trainer/tensorboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "kernels/error.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;

class TensorBoardFile : public ::testing::Test {
 protected:
  TensorBoardFile() : folder_(fs::temp_directory_path() / fmt::format("ropewalk_tensorboard_{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~TensorBoardFile() override { fs::remove_all(folder_); }

  std::string content() const {
    const fs::path path = fs::directory_iterator(folder_)->path();
    EXPECT_TRUE(path.filename().string().starts_with("events.out.tfevents.")) << path;
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path folder_;
};

template <class T>
T number_at(const std::string& bytes, size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The messages of a file of TFRecords, each checked.
std::vector<std::string> records(const std::string& file) {
  std::vector<std::string> messages;
  for (size_t at = 0; at < file.size();) {
    const auto length = number_at<uint64_t>(file, at);
    EXPECT_EQ(number_at<uint32_t>(file, at + 8), masked_crc32c(std::string_view(file).substr(at, 8)));
    messages.push_back(file.substr(at + 12, length));
    EXPECT_EQ(number_at<uint32_t>(file, at + 12 + length), masked_crc32c(messages.back()));
    at += 16 + length;
  }
  return messages;
}

// A message of protocol buffers by hand, without the program's own definition: field number to values; numbers as their bytes.
std::multimap<int, std::string> fields(const std::string& message) {
  std::multimap<int, std::string> found;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    size_t length = 0;
    switch (key & 7) {
      case 0: {
        const uint64_t value = varint();
        found.emplace(key >> 3, std::string(reinterpret_cast<const char*>(&value), sizeof value));
        continue;
      }
      case 1: length = 8; break;
      case 2: length = varint(); break;
      case 5: length = 4; break;
      default: ADD_FAILURE() << "wire type " << (key & 7); return found;
    }
    found.emplace(key >> 3, message.substr(at, length));
    at += length;
  }
  return found;
}

const std::string& one(const std::multimap<int, std::string>& fields, int number) {
  EXPECT_EQ(fields.count(number), 1u) << number;
  return fields.find(number)->second;
}

TEST(Crc32c, IsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST_F(TensorBoardFile, HoldsTheScalarsOfEachStep) {
  {
    TensorBoard board;
    board.open(folder_, 7);
    board.append(8, {{"loss", 2.5}, {"grad_norm/ssm", 0.125}});
    board.append(9, {{"loss", 2.25}});
  }
  const std::vector<std::string> events = records(content());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(one(fields(events[0]), 3), "brain.Event:2");
  const auto begun = fields(events[1]);
  EXPECT_EQ(number_at<int64_t>(one(begun, 2), 0), 8);  // what older files say of step 8 and later is void
  EXPECT_EQ(number_at<int64_t>(one(fields(one(begun, 7)), 1), 0), 1);

  const auto step = fields(events[2]);
  EXPECT_EQ(number_at<int64_t>(one(step, 2), 0), 8);
  EXPECT_GT(number_at<double>(one(step, 1), 0), 1.7e9);
  const auto summary = fields(one(step, 5));
  std::map<std::string, float> scalars;
  for (const auto& [number, value] : summary) {
    EXPECT_EQ(number, 1);
    scalars[one(fields(value), 1)] = number_at<float>(one(fields(value), 2), 0);
  }
  EXPECT_EQ(scalars, (std::map<std::string, float>{{"loss", 2.5F}, {"grad_norm/ssm", 0.125F}}));
  EXPECT_EQ(number_at<int64_t>(one(fields(events[3]), 2), 0), 9);
}

}  // namespace
}  // namespace ropewalk
