// What the tests of checkpoints share: folders that vanish, tensors of arbitrary bits, cuts into boxes, damage.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/checkpoint_writer.h"

namespace ropewalk::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    const std::string memory = "/dev/shm/";  // where every flush to disk costs nothing
    std::string name = (std::filesystem::exists(memory) ? memory : ::testing::TempDir()) + "ropewalk-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct Named {
  std::string name;
  Tensor value;
};

// Any bits, also those of NaNs.
inline Tensor random_bits(const Shape& shape, DType dtype, uint64_t seed) {
  const Tensor x = Tensor::empty(shape, dtype);
  std::mt19937_64 random(seed);
  auto* const bytes = static_cast<unsigned char*>(x.raw());
  std::generate_n(bytes, x.bytes(), [&] { return static_cast<unsigned char>(random()); });
  return x;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

// The box [start, start + extent) of a tensor.
inline Box box_of(const Named& t, const Shape& start, const Shape& extent) {
  Tensor part = t.value;
  for (int d = 0; d < start.rank(); ++d) part = part.narrow(d, start[d], extent[d]);
  return {t.name, t.value.shape(), start, extent, part.contiguous_copy()};
}

// Cuts each dim d into parts[d] pieces as even as they come.
inline std::vector<Box> cut(const Named& t, const Shape& parts) {
  std::vector<Box> boxes;
  for (int64_t i = 0; i < parts.numel(); ++i) {
    Shape start = parts, extent = parts;
    int64_t rest = i;
    for (int d = parts.rank() - 1; d >= 0; --d) {
      const int64_t k = rest % parts[d], size = t.value.dim(d);
      start[d] = size * k / parts[d];
      extent[d] = size * (k + 1) / parts[d] - start[d];
      rest /= parts[d];
    }
    boxes.push_back(box_of(t, start, extent));
  }
  return boxes;
}

inline std::vector<Box> whole(const std::vector<Named>& tensors) {
  std::vector<Box> boxes;
  for (const Named& t : tensors) {
    Shape parts = t.value.shape();
    for (int d = 0; d < parts.rank(); ++d) parts[d] = 1;
    boxes.push_back(cut(t, parts)[0]);
  }
  return boxes;
}

inline Tensor read_whole(CheckpointReader& reader, const CheckpointReader::TensorInfo& info) {
  Shape start = info.shape;
  for (int d = 0; d < start.rank(); ++d) start[d] = 0;
  const Tensor value = Tensor::empty(info.shape, info.dtype);
  reader.read({info.name, info.shape, start, info.shape, value});
  return value;
}

inline void read_everything(const std::string& folder) {
  CheckpointReader reader(folder);
  for (const auto& info : reader.tensors()) read_whole(reader, info);
}

inline void expect_holds(const std::string& folder, const std::vector<Named>& tensors) {
  CheckpointReader reader(folder);
  EXPECT_EQ(reader.tensors().size(), tensors.size());
  for (const Named& t : tensors) {
    ASSERT_TRUE(reader.has(t.name)) << t.name;
    EXPECT_TRUE(same_bits(read_whole(reader, {t.name, t.value.dtype(), t.value.shape(), 0}), t.value)) << t.name;
  }
}

inline std::string digest_of(const std::string& folder, const std::string& prefix = "") {
  return CheckpointReader(folder).digest({prefix});
}

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void set_content(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// The message of the CheckpointError that body ends with; empty where it ends well.
template <class Body>
std::string checkpoint_error(const Body& body) {
  try {
    body();
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.exit_code(), 3);
    return error.what();
  }
  return "";
}

}  // namespace ropewalk::testing
