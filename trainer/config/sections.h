// The readers of the configuration's sections. They check what holds whatever the number of ranks.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "trainer/config/node.h"
#include "trainer/options.h"

namespace ropewalk {

// Its tokenizer too, which the model knows only by its vocabulary.
ModelOptions read_model(const Node& node, TokenizerOptions& tokenizer);
Mamba1Options read_mamba1(const Node& block, int64_t d_model);
MoeOptions read_moe(const Node& block);
Mamba2Options read_mamba2(const Node& block);
AttentionBlockOptions read_attention(const Node& block, int64_t d_model);
Activation read_activation(const Node& node);
MlpOptions read_mlp(const Node& block);
ParallelOptions read_parallel_block(const Node& node, const std::map<std::string, BlockOptions>& blocks);
std::vector<std::vector<std::string>> read_layout(const Node& node, const std::map<std::string, BlockOptions>& blocks);
void read_sharing(const Node& node, ModelOptions& model);
OptimizerOptions read_optimizer(const Node& node);
TokenizerOptions read_tokenizer(const Node& node);
DataOptions read_data(const Node& node, const TokenizerOptions& tokenizer);
TrainOptions read_train(const Node& node);
MeshOptions read_parallel(const Node& node);
CheckpointOptions read_checkpoint(const Node& node);
RunOptions read_run(const Node& node, const std::string& default_dir);

void expect_divisor(const Node& node, int64_t given, const std::string& of, int64_t whole);
// null, or so many factors.
template <size_t N>
std::optional<std::array<double, N>> read_multipliers(const Node& node) {
  if (node.is_null(true)) return {};
  const std::vector<double> factors = node.numbers(kPositive, std::vector<double>(N, 1));
  std::array<double, N> multipliers;
  std::copy_n(factors.begin(), N, multipliers.begin());
  return multipliers;
}

bool is_mixer(const BlockOptions& block);  // a mixer, or several side by side
bool is_ffn(const BlockOptions& block);
// Throws unless `name`, said at `node`, is that of a block for which `fits` holds; `what` says which those are.
void expect_block(const Node& node, const std::string& name, const std::map<std::string, BlockOptions>& blocks,
                  bool (*fits)(const BlockOptions&), const std::string& what);
// The name at `node`, of a block of that sort.
std::string read_block_name(const Node& node, const std::map<std::string, BlockOptions>& blocks, bool (*fits)(const BlockOptions&),
                            const std::string& what);

}  // namespace ropewalk
