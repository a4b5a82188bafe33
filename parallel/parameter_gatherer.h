// ZeRO-3: what ops read is whole only around the forward and the backward of the unit of the model that reads it. While a unit runs, that
// of its neighbour, which comes next, is on its way.
#pragma once

#include "parallel/parameter_store.h"

namespace ropewalk {

class ParameterGatherer {
 public:
  // `store` must outlive this.
  ParameterGatherer(const ParameterStore& store, const Declarations& declarations);
  ParameterGatherer(const ParameterGatherer&) = delete;
  ParameterGatherer& operator=(const ParameterGatherer&) = delete;

  // By unit: what surrounds it; empty where nothing is cut.
  const std::vector<SegmentHooks>& hooks() const { return hooks_; }

 private:
  // A bucket that is whole, or becomes it.
  struct Whole {
    Tensor values{};
    int64_t version = 0;  // of the store, when it was gathered
    int users = 0;        // units that run
    Work work{};
  };

  void enter(size_t unit, std::optional<size_t> next);
  void leave(size_t unit);
  void start(size_t bucket);

  const ParameterStore& store_;
  std::vector<std::vector<size_t>> buckets_of_;  // by unit: those that are cut
  std::vector<Whole> whole_;                     // by bucket
  std::vector<SegmentHooks> hooks_;
};

}  // namespace ropewalk
