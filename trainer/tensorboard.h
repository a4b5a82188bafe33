// A run's numbers for TensorBoard: events.out.tfevents.<time>.<host> in the run folder, a new file each time that a run begins or goes on.
//
// The file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h): the length (8 bytes, little-endian), its masked CRC-32C,
// the message (trainer/tensorboard.proto), its masked CRC-32C. Masked: rotated right by 15 bits, plus 0xa282ead8.
#pragma once

#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ropewalk {

uint32_t crc32c(std::string_view bytes);  // Castagnoli's polynomial
uint32_t masked_crc32c(std::string_view bytes);

class TensorBoard {
 public:
  // What older files of the folder say of steps after `step` is void.
  void open(const std::string& folder, int64_t step);
  void append(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void write(const std::string& message);

  std::ofstream file_;
};

}  // namespace ropewalk
