#include "data/mqar.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "data/permutation.h"
#include "kernels/error.h"

namespace ropewalk {
namespace {

constexpr uint64_t kTestSeed = 0;

int64_t examples_a_row(const MqarKind& kind, int64_t seq_len) { return seq_len / kind.length; }

int64_t rows_of(const MqarKind& kind, int64_t seq_len) {
  const int64_t fit = examples_a_row(kind, seq_len);
  return (kind.count + fit - 1) / fit;
}

}  // namespace

// The random numbers of one example.
struct MqarRows::Drawer {
  Philox random;
  uint64_t next;

  Drawer(uint64_t seed, const std::string& stream, int64_t example) : random(seed, stream), next(static_cast<uint64_t>(example) << 24) {}

  double uniform() { return random.uniform(next++); }
  int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }

  std::vector<int64_t> distinct(int64_t count, int64_t from, int64_t to) {
    std::vector<int64_t> drawn;
    std::unordered_set<int64_t> taken;
    while (std::ssize(drawn) < count)
      if (const int64_t id = from + below(to - from); taken.insert(id).second) drawn.push_back(id);
    return drawn;
  }

  // Distinct slots out of [0, slots), each draw by the weights of those left. As a race: slot s arrives after an exponential time of rate
  // its weight, and who comes first is drawn first (Efraimidis and Spirakis, 2006).
  std::vector<int64_t> slots(int64_t count, int64_t slots, double power_a) {
    std::vector<std::pair<double, int64_t>> arrivals(slots);
    for (int64_t s = 0; s < slots; ++s)
      arrivals[s] = {-std::log1p(-uniform()) / (power_a * std::pow(static_cast<double>(s + 1), power_a - 1)), s};
    std::partial_sort(arrivals.begin(), arrivals.begin() + count, arrivals.end());
    std::vector<int64_t> drawn(count);
    std::transform(arrivals.begin(), arrivals.begin() + count, drawn.begin(), [](const auto& arrival) { return arrival.second; });
    return drawn;
  }
};

MqarRows::MqarRows(const MqarSource& options, const std::vector<MqarKind>& kinds, uint64_t seed, std::string stream, int64_t seq_len,
                   bool packed)
    : options_(options), kinds_(kinds), seed_(seed), stream_(std::move(stream)), seq_len_(seq_len), packed_(packed) {
  for (const MqarKind& kind : kinds_) {
    expect(kind.length <= seq_len, "data.source: mqar: expected examples of at most data.seq_len ({}) tokens, given {}", seq_len,
           kind.length);
    rows_ += rows_of(kind, seq_len);
  }
}

Sequence MqarRows::at(int64_t i) const {
  size_t kind = 0;
  while (i >= rows_of(kinds_[kind], seq_len_)) i -= rows_of(kinds_[kind++], seq_len_);
  const int64_t fit = examples_a_row(kinds_[kind], seq_len_), first = i * fit, end = std::min(first + fit, kinds_[kind].count);
  Sequence row;
  for (int64_t example = first; example < end; ++example) append_example(kind, example, row);
  if (std::ssize(row.tokens) < seq_len_) row.document_begins.push_back(std::ssize(row.tokens));
  row.tokens.resize(seq_len_, 0);
  row.targets.resize(seq_len_, Sequence::kIgnored);
  if (!packed_) row.document_begins = {0};
  return row;
}

void MqarRows::append_example(size_t kind, int64_t example, Sequence& row) const {
  const auto [length, pairs, count] = kinds_[kind];
  const int64_t vocab = options_.vocab, begin = std::ssize(row.tokens);
  Drawer draw(seed_, fmt::format("{} {}", stream_, kind), example);
  const std::vector<int64_t> keys = draw.distinct(pairs, 1, vocab / 2), values = draw.distinct(pairs, vocab / 2, vocab);
  const std::vector<int64_t> slots = draw.slots(pairs, (length - 2 * pairs) / 2, options_.power_a);

  row.document_begins.push_back(begin);
  row.tokens.resize(begin + length, 0);
  row.targets.resize(begin + length, Sequence::kIgnored);
  if (options_.random_non_queries)
    for (int64_t p = 2 * pairs; p < length; ++p) row.tokens[begin + p] = draw.below(vocab);
  for (int64_t k = 0; k < pairs; ++k) {
    row.tokens[begin + 2 * k] = keys[k];
    row.tokens[begin + 2 * k + 1] = values[k];
    const int64_t query = begin + 2 * pairs + 2 * slots[k];
    row.tokens[query] = keys[k];
    row.targets[query] = values[k];
  }
}

MqarSequences::MqarSequences(const MqarSource& options, uint64_t seed, int64_t seq_len, bool packed)
    : rows_(options, options.train, seed, "mqar train", seq_len, packed), options_(options), seed_(seed), seq_len_(seq_len) {}

Sequence MqarSequences::at(int64_t i) const {
  const Permutation order(rows_.count(), Philox(seed_, "mqar order"), i / rows_.count());
  return rows_.at(order(i % rows_.count()));
}

uint64_t MqarSequences::digest() const {
  std::string text = fmt::format("mqar {} {} {}", options_.vocab, options_.power_a, options_.random_non_queries);
  for (const auto& [length, pairs, count] : options_.train) text += fmt::format(" {} {} {}", length, pairs, count);
  return Philox::hash(text);
}

MqarRows mqar_test(const MqarSource& options, int64_t seq_len, bool packed) {
  return {options, options.test, kTestSeed, "mqar test", seq_len, packed};
}

}  // namespace ropewalk
