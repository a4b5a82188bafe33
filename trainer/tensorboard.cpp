#include "trainer/tensorboard.h"

#include <unistd.h>

#include <array>
#include <chrono>

#include "kernels/error.h"
#include "trainer/tensorboard.pb.h"

namespace ropewalk {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, its bits reversed
constexpr uint32_t kMask = 0xa282ead8;

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    table[byte] = byte;
    for (int bit = 0; bit < 8; ++bit) table[byte] = table[byte] >> 1 ^ (table[byte] & 1 ? kPolynomial : 0);
  }
  return table;
}();

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

double wall_time() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

tensorboard::Event event_at(int64_t step) {
  tensorboard::Event event;
  event.set_wall_time(wall_time());
  event.set_step(step);
  return event;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + kMask;
}

void TensorBoard::open(const std::string& folder, int64_t step) {
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  // Files are read in the order of their names.
  const std::string path = fmt::format("{}/events.out.tfevents.{:.6f}.{}", folder, wall_time(), host);
  file_.open(path, std::ios::binary);
  if (!file_) throw Error(3, fmt::format("{}: cannot be written", path));
  tensorboard::Event version = event_at(0), begun = event_at(step + 1);
  version.set_file_version("brain.Event:2");
  begun.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  write(version.SerializeAsString());
  write(begun.SerializeAsString());
}

void TensorBoard::append(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  tensorboard::Event event = event_at(step);
  for (const auto& [tag, number] : scalars) {
    tensorboard::Value* value = event.mutable_summary()->add_value();
    value->set_tag(tag);
    value->set_simple_value(static_cast<float>(number));
  }
  write(event.SerializeAsString());
  file_.flush();
}

void TensorBoard::write(const std::string& message) {
  const uint64_t length = message.size();
  file_ << bytes_of(length) << bytes_of(masked_crc32c(bytes_of(length))) << message << bytes_of(masked_crc32c(message));
}

}  // namespace ropewalk
