// The safetensors format: the header's length (8 bytes, little-endian), a JSON header, then the tensors one after the other, little-endian,
// row-major. What is written here has its header padded with spaces so that the tensors start 64-byte aligned.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor/dtype.h"
#include "kernels/tensor/shape.h"
#include "trainer/checkpoint/checkpoint_error.h"

namespace ropewalk {

const char* safetensors_name(DType dtype);  // F64 F32 BF16 I64; ShapeError for another
std::optional<DType> dtype_of_safetensors(const std::string& name);
// Nothing where an extent is negative or the bytes would not fit an int64.
std::optional<int64_t> bytes_of(const Shape& shape, DType dtype);

struct SafetensorsEntry {
  std::string name;
  DType dtype;
  Shape shape;
  int64_t offset = 0;  // from the beginning of the file

  bool operator==(const SafetensorsEntry&) const = default;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata{};
  std::vector<SafetensorsEntry> entries{};  // in the order of their bytes
  int64_t bytes = 0;                        // before the first tensor
};

// Lays the entries one after the other (sets their offsets and header.bytes) and returns what comes before them. Names are unique, UTF-8.
std::string lay_out_safetensors(SafetensorsHeader& header);

// Trusts nothing. `read(offset, count)` gives bytes of the file, which has `file_bytes` of them; `path` is for errors.
SafetensorsHeader parse_safetensors(int64_t file_bytes, const std::function<std::string(int64_t offset, int64_t count)>& read,
                                    const std::string& path);

}  // namespace ropewalk
