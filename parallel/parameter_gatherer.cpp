#include "parallel/parameter_gatherer.h"

#include <algorithm>
#include <set>

namespace ropewalk {
namespace {

// The cut buckets that hold these leaves.
std::vector<size_t> cut_buckets(const std::vector<std::shared_ptr<Leaf>>& leaves, const ParameterStore& store) {
  std::set<size_t> buckets;
  for (const PlacedLeaf& placed : store.leaves())
    if (store.buckets()[placed.bucket].cut_values && std::find(leaves.begin(), leaves.end(), placed.leaf) != leaves.end())
      buckets.insert(placed.bucket);
  return {buckets.begin(), buckets.end()};
}

}  // namespace

ParameterGatherer::ParameterGatherer(const ParameterStore& store, const Declarations& declarations)
    : store_(store), whole_(store.buckets().size()), hooks_(declarations.units().size()) {
  std::vector<size_t> units;  // of this rank's, those that have anything cut
  for (size_t unit = 0; unit < declarations.units().size(); ++unit) {
    buckets_of_.push_back(cut_buckets(declarations.units()[unit].leaves, store));
    if (!buckets_of_.back().empty()) units.push_back(unit);
  }
  std::optional<size_t> before;  // in backward it comes next
  for (size_t i = 0; i < units.size(); ++i) {
    const size_t unit = units[i];
    const auto behind = i + 1 < units.size() ? std::optional(units[i + 1]) : std::nullopt;
    hooks_[unit] = {.before_forward = [this, unit, behind] { enter(unit, behind); },
                    .after_forward = [this, unit] { leave(unit); },
                    .before_backward = {},
                    .after_backward = {}};
    if (!declarations.units()[unit].backward_reads) continue;
    hooks_[unit].before_backward = [this, unit, before] { enter(unit, before); };
    hooks_[unit].after_backward = [this, unit] { leave(unit); };
    before = unit;
  }
}

void ParameterGatherer::enter(size_t unit, std::optional<size_t> next) {
  for (const size_t bucket : buckets_of_[unit]) start(bucket);
  if (next)
    for (const size_t bucket : buckets_of_[*next]) start(bucket);
  for (const size_t index : buckets_of_[unit]) {
    Whole& whole = whole_[index];
    whole.work.wait();
    if (whole.users++ > 0) continue;
    for (const size_t i : store_.buckets()[index].leaves) store_.leaves()[i].leaf->data = store_.leaves()[i].of(whole.values);
  }
}

void ParameterGatherer::leave(size_t unit) {
  for (const size_t index : buckets_of_[unit]) {
    if (--whole_[index].users > 0) continue;
    whole_[index].values = {};
    for (const size_t i : store_.buckets()[index].leaves) store_.leaves()[i].leaf->data = {};
  }
}

// Unless it is whole already, or on its way, with the values of now.
void ParameterGatherer::start(size_t index) {
  const Bucket& bucket = store_.buckets()[index];
  Whole& whole = whole_[index];
  if (whole.values && whole.version == store_.version()) return;
  whole.work.wait();
  whole.values = Tensor::empty({bucket.numel}, bucket.values.dtype());
  whole.version = store_.version();
  whole.values.narrow(0, bucket.owned.begin, bucket.owned.length).copy_from(bucket.values);
  whole.work = bucket.replicas.all_gather_in_place(whole.values, bucket.cuts, "parameters");
}

}  // namespace ropewalk
