#include "trainer/config/words.h"

#include <fmt/format.h>

#include <algorithm>

namespace ropewalk {
namespace {

// Insertions, deletions, replacements and swaps of neighbours that lead from a to b.
size_t slips(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string join(const std::vector<std::string>& words, const std::string& separator) {
  std::string joined;
  for (size_t i = 0; i < words.size(); ++i) joined += (i == 0 ? "" : separator) + words[i];
  return joined;
}

std::string join_or(const std::vector<std::string>& words) {
  if (words.size() < 2) return join(words, "");
  return join({words.begin(), words.end() - 1}, ", ") + " or " + words.back();
}

std::vector<std::string> words_of(const std::vector<int64_t>& numbers) {
  std::vector<std::string> words;
  words.reserve(numbers.size());
  for (const int64_t number : numbers) words.push_back(std::to_string(number));
  return words;
}

std::string shortened(const std::string& text) {
  const size_t end = std::min({text.find('\n'), text.size(), size_t{60}});
  return text.substr(0, end) + (end < text.size() ? "..." : "");
}

std::optional<std::string> nearest(const std::string& given, const std::vector<std::string>& words) {
  std::optional<std::string> best;
  size_t fewest = 1 + given.size() / 6;  // kv_heads is not a slip for heads
  for (const std::string& word : words) {
    const size_t count = slips(given, word);
    if (count > fewest || count >= word.size() || (best && count == fewest)) continue;
    best = word;
    fewest = count;
  }
  return best;
}

std::string suggestion(const std::string& given, const std::vector<std::string>& words) {
  if (const auto word = nearest(given, words)) return fmt::format("; did you mean {}?", *word);
  return words.empty() ? "" : fmt::format("; expected {}{}", words.size() > 1 ? "one of " : "", join_or(words));
}

}  // namespace ropewalk
