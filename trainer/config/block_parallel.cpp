// `parallel`: several mixers side by side.
#include <algorithm>

#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

bool is_single_mixer(const BlockOptions& block) { return is_mixer(block) && !std::holds_alternative<ParallelOptions>(block); }

std::vector<std::string> read_branches(const Node& node, const std::map<std::string, BlockOptions>& blocks) {
  std::vector<std::string> branches;
  for (const Node& item : node.items()) {
    const std::string name = read_block_name(item, blocks, is_single_mixer, "a block with a mixer");
    if (std::count(branches.begin(), branches.end(), name) > 0) throw item.error(fmt::format("{} is a branch already", name));
    branches.push_back(name);
  }
  if (branches.size() < 2) throw node.expected("two or more blocks");
  return branches;
}

}  // namespace

ParallelOptions read_parallel_block(const Node& node, const std::map<std::string, BlockOptions>& blocks) {
  ParallelOptions parallel;
  parallel.branches = read_branches(node["branches"].about("Names of the blocks, two or more, each with a mixer.", "required"), blocks);
  parallel.combine =
      node["combine"]
          .about("What becomes of the outputs: sum, mean, mean of their norms, sum with learned weights, or a projection of them all.")
          .choice<Combine>({{"sum", Combine::kSum},
                            {"mean", Combine::kMean},
                            {"normed_mean", Combine::kNormedMean},
                            {"gated", Combine::kGated},
                            {"concat_proj", Combine::kConcatProj}},
                           parallel.combine);
  const std::vector<double> ones(parallel.branches.size(), 1);
  parallel.in_scales = node["in_scales"].about("Factors on the input, a number a branch.", "all 1").numbers(kPositive, ones);
  const bool weighted = parallel.combine == Combine::kSum || parallel.combine == Combine::kMean;
  if (const Node out = node["out_scales"].about("`sum` and `mean`: factors on the outputs, a number a branch.", "all 1"); weighted)
    parallel.out_scales = out.numbers(kPositive, ones);
  else if (out.given())
    throw out.error("only sum and mean scale what comes out of their branches");
  return parallel;
}

}  // namespace ropewalk
