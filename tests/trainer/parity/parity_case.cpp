#include "tests/trainer/parity/parity_case.h"

#include <algorithm>
#include <array>

#include "kernels/tensor/philox.h"
#include "trainer/config/config.h"

namespace ropewalk::testing {
namespace {

Options options_for(const ParityCase& parity, OptimizerOptions::Type type) {
  Options options = parse_config(parity.config, parity.name, {}).options;
  options.optimizer.type = type;
  options.optimizer.values.lr = type == OptimizerOptions::kSgd ? 0.1 : 0.01;
  return options;
}

// Documents that begin anywhere: per seed none but the first, a few, some, or at nearly every token.
Rows randomly_packed(uint64_t seed) {
  return [random = Philox(seed, "packing")](int64_t i, const Options& options) {
    constexpr std::array kBegins = {0.0, 0.05, 0.3, 0.9};
    const double begins = kBegins[random.integer(0) % kBegins.size()];
    Sequence row = tiny_row(i, options);
    row.document_begins = {0};
    for (int64_t t = 1; t < options.data.seq_len; ++t)
      if (random.uniform(static_cast<uint64_t>(1 + i * options.data.seq_len + t)) < begins) row.document_begins.push_back(t);
    return row;
  };
}

// The outcome on one rank. Cases that follow each other often differ in nothing but their layout: the last of each optimizer is kept.
const Outcome& one_rank(const Options& options, uint64_t packing, const Rows& rows) {
  struct Kept {
    Options options;
    uint64_t packing = 0;
    Outcome outcome;
  };
  static std::map<OptimizerOptions::Type, Kept> all;
  Kept& kept = all[options.optimizer.type];
  const Options alone = on_one_rank(options);
  if (kept.outcome.losses.empty() || kept.options != alone || kept.packing != packing)
    kept = {alone, packing, train_for_parity(alone, Group(), {}, rows)};
  return kept.outcome;
}

// What is gathered is the same on all ranks: the first compares.
Difference compare(const ParityCase& parity, const Group& group, const Degrees& degrees, double rounding) {
  const Rows rows = parity.packing ? randomly_packed(parity.packing) : tiny_row;
  Difference worst;
  for (const auto type : {OptimizerOptions::kSgd, OptimizerOptions::kAdamW}) {
    const Options options = options_for(parity, type);
    const Outcome outcome = train_for_parity(options, group, degrees, rows);
    if (group.rank() > 0) continue;
    const Difference found = largest_difference(outcome, one_rank(options, parity.packing, rows), rounding);
    if (worst.of.empty() || found.error > worst.error)
      worst = {found.error, fmt::format("{}, {}", type == OptimizerOptions::kSgd ? "SGD" : "AdamW", found.of)};
  }
  return worst;
}

ParityResult run(const ParityCase& parity, const Group& group, double rounding) {
  ParityResult result;
  std::optional<Degrees> degrees;
  try {
    degrees = resolve_mesh(parse_config(parity.config, parity.name, {}), parity.ranks);
  } catch (const ConfigError& error) {
    result.refused = error.what();  // on every rank of the group alike
  }
  if (degrees) result.difference = compare(parity, group, *degrees, rounding);
  return result;
}

// Neighbouring cases that fit beside each other on so many ranks.
std::vector<std::pair<size_t, size_t>> rounds(const std::vector<ParityCase>& cases, int ranks) {
  std::vector<std::pair<size_t, size_t>> all;
  int used = 0;
  for (size_t i = 0; i < cases.size(); used += cases[i].ranks, ++i) {
    if (all.empty() || used + cases[i].ranks > ranks) {
      all.emplace_back(i, i);
      used = 0;
    }
    all.back().second = i + 1;
  }
  return all;
}

// From the rank that has it to all.
ParityResult shared(const Group& world, int root, const ParityResult& mine) {
  ParityResult all;
  all.difference.of = world.broadcast(mine.difference.of, root);
  all.difference.error = world.gather(mine.difference.error, "parity_error")[static_cast<size_t>(root)];
  if (world.sum(world.rank() == root && mine.refused ? 1 : 0, "parity_refused") > 0)
    all.refused = world.broadcast(mine.refused.value_or(""), root);
  return all;
}

}  // namespace

std::vector<ParityResult> run_side_by_side(const Group& world, const std::vector<ParityCase>& cases, double rounding,
                                           const std::function<void(const ParityCase&, const ParityResult&)>& report) {
  std::vector<ParityResult> results;
  for (const auto& [begin, end] : rounds(cases, world.size())) {
    std::vector<int> first = {0};  // rank of each case of the round
    for (size_t i = begin; i < end; ++i) first.push_back(first.back() + cases[i].ranks);
    const auto place = std::upper_bound(first.begin(), first.end(), world.rank()) - first.begin() - 1;
    const size_t mine = begin + static_cast<size_t>(place);
    const Group group = world.split(static_cast<int>(place));
    ParityResult result;
    if (mine < end) result = run(cases[mine], group, rounding);
    for (size_t i = begin; i < end; ++i) {
      results.push_back(shared(world, first[i - begin], result));
      if (world.rank() == 0) report(cases[i], results.back());
    }
  }
  return results;
}

}  // namespace ropewalk::testing
