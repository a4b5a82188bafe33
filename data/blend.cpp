#include "data/blend.h"

#include <xxhash.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/error.h"

namespace ropewalk {
namespace {

std::vector<double> shares_of(std::vector<double> weights) {
  expect(!weights.empty() && std::all_of(weights.begin(), weights.end(), [](double w) { return w > 0; }),
         "blend: expected one or more positive weights");
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

}  // namespace

BlendOrder::BlendOrder(std::vector<double> weights) : weights_(shares_of(std::move(weights))), drawn_from_(weights_.size()) {}

// Of the sources that may draw now (owed 1 / (2n - 2) or more), the one that must draw first: whose debt reaches 1 - 1 / (2n - 2) first.
size_t BlendOrder::next() const {
  const auto n = static_cast<double>(weights_.size());
  if (n == 1) return 0;
  const double slack = 1 / (2 * n - 2), draws = static_cast<double>(drawn_ + 1);
  size_t first = 0;
  double earliest = std::numeric_limits<double>::infinity();
  for (size_t s = 0; s < weights_.size(); ++s) {
    const double owed = weights_[s] * draws - static_cast<double>(drawn_from_[s]), deadline = (1 - slack - owed) / weights_[s];
    if (owed < slack || deadline >= earliest) continue;
    first = s;
    earliest = deadline;
  }
  return first;
}

BlendOrder::Draw BlendOrder::at(int64_t i) const {
  if (i < drawn_) {
    drawn_ = 0;
    std::fill(drawn_from_.begin(), drawn_from_.end(), 0);
  }
  for (; drawn_ < i; ++drawn_) ++drawn_from_[next()];
  const size_t source = next();
  return {source, drawn_from_[source]};
}

Blend::Blend(std::vector<double> weights, std::vector<std::unique_ptr<Sequences>> sources)
    : weights_(weights), order_(std::move(weights)), sources_(std::move(sources)) {}

Sequence Blend::at(int64_t i) const {
  const auto [source, index] = order_.at(i);
  return sources_[source]->at(index);
}

uint64_t Blend::digest() const {
  uint64_t digest = XXH3_64bits(weights_.data(), weights_.size() * sizeof(double));
  for (const auto& source : sources_) {
    const uint64_t of_source = source->digest();
    digest = XXH3_64bits_withSeed(&of_source, sizeof of_source, digest);
  }
  return digest;
}

int64_t Blend::tokens() const {
  return std::accumulate(sources_.begin(), sources_.end(), int64_t{0}, [](int64_t sum, const auto& s) { return sum + s->tokens(); });
}

int64_t RowsInTurn::count() const {
  return std::accumulate(sources_.begin(), sources_.end(), int64_t{0}, [](int64_t sum, const auto& s) { return sum + s->count(); });
}

Sequence RowsInTurn::at(int64_t i) const {
  auto source = sources_.begin();
  while (i >= (*source)->count()) i -= (*source++)->count();
  return (*source)->at(i);
}

}  // namespace ropewalk
