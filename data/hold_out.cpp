#include "data/hold_out.h"

#include <cmath>
#include <cstdint>
#include <numeric>

namespace ropewalk {
namespace {

int64_t count_bytes(const std::vector<std::string>& documents) {
  return std::accumulate(documents.begin(), documents.end(), int64_t{0},
                         [](int64_t sum, const std::string& d) { return sum + std::ssize(d); });
}

HoldOut every_nth(std::vector<std::string> documents, size_t n) {
  HoldOut parts;
  for (size_t k = 0; k < documents.size(); ++k) (k % n == n - 1 ? parts.validation : parts.train).push_back(std::move(documents[k]));
  return parts;
}

HoldOut last_bytes(std::vector<std::string> documents, int64_t bytes) {
  HoldOut parts;
  int64_t to_train = count_bytes(documents) - bytes;
  for (std::string& document : documents) {
    const int64_t cut = std::min(to_train, std::ssize(document));
    if (cut > 0) parts.train.push_back(document.substr(0, cut));
    if (cut < std::ssize(document)) parts.validation.push_back(document.substr(cut));
    to_train -= cut;
  }
  return parts;
}

}  // namespace

DataError nothing_left(double share, int64_t documents, const std::string& amount, bool training) {
  return DataError(fmt::format("data.validation: {} of {} documents ({}) leaves nothing for {}; change the share or give more text", share,
                               documents, amount, training ? "training" : "validation"));
}

HoldOut hold_out(std::vector<std::string> documents, double share) {
  expect(0 <= share && share < 1, "data.validation: expected a share in [0, 1), given {}", share);
  if (share == 0) return {.train = std::move(documents), .validation = {}};
  const size_t count = documents.size();
  const int64_t bytes = count_bytes(documents);
  HoldOut parts = static_cast<double>(count) < 1 / share
                      ? last_bytes(std::move(documents), std::llround(share * static_cast<double>(bytes)))
                      : every_nth(std::move(documents), std::llround(1 / share));
  if (parts.train.empty() || parts.validation.empty())
    throw nothing_left(share, static_cast<int64_t>(count), fmt::format("{} bytes", bytes), parts.train.empty());
  return parts;
}

}  // namespace ropewalk
