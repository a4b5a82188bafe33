// Whether a layout changes what is learned: a few steps of training on some mesh against the same steps on one rank.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/support/tiny_model.h"
#include "trainer/rank_model.h"

namespace ropewalk::testing {

constexpr int64_t kParitySteps = 3;
constexpr double kParityTolerance = 1e-10;

// Global tensors by name: what a mesh computed, the same on each of its ranks.
using Gathered = std::map<std::string, Tensor>;

struct Outcome {
  std::vector<double> losses, grad_norms, of_experts;  // of_experts: auxiliary loss and load
  Gathered gradients, weights;                         // of the first step; after the last, and buffers
};

// Row i of the data of a run.
using Rows = std::function<Sequence(int64_t i, const Options& options)>;
inline Sequence tiny_row(int64_t i, const Options& options) { return tiny_sequence(i, options.data.seq_len, options.model.vocabulary); }

// kParitySteps steps. Collective over `group`, whose size is degrees.ranks().
Outcome train_for_parity(const Options& options, const Group& group, const Degrees& degrees, const Rows& rows = tiny_row);

// The same run with nothing cut: one rank, every row a microbatch, no option of `parallel`, nothing recomputed.
Options on_one_rank(Options options);

struct Difference {
  double error = 0;  // relative; of tensors |given - expected| / |expected| in 2-norms; infinite where nothing was compared
  std::string of;    // "gradient of layers.3.mixer.A_log"
};

// The largest. Gradients whose norm is below `rounding` times that of all are compared as if they were as large as that: where the true
// gradient is zero, there is nothing but rounding to compare. Without it a tensor of zeros is an infinite difference.
Difference largest_difference(const Outcome& given, const Outcome& expected, double rounding = 0);

}  // namespace ropewalk::testing
