// The readers of the configuration's sections. They check what holds whatever the number of ranks.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/node.h"
#include "trainer/options.h"

namespace ropewalk {

ModelOptions read_model(const Node& node);
MoeOptions read_moe(const Node& block);
std::vector<std::vector<std::string>> read_layout(const Node& node, const std::map<std::string, BlockOptions>& blocks);
void read_sharing(const Node& node, ModelOptions& model);
OptimizerOptions read_optimizer(const Node& node);
DataOptions read_data(const Node& node);
TrainOptions read_train(const Node& node);
MeshOptions read_parallel(const Node& node);
CheckpointOptions read_checkpoint(const Node& node);
RunOptions read_run(const Node& node, const std::string& default_dir);

bool is_mixer(const BlockOptions& block);  // a mixer, or several side by side
bool is_ffn(const BlockOptions& block);
// Throws unless `name`, said at `node`, is that of a block for which `fits` holds; `what` says which those are.
void expect_block(const Node& node, const std::string& name, const std::map<std::string, BlockOptions>& blocks,
                  bool (*fits)(const BlockOptions&), const std::string& what);
// The name at `node`, of a block of that sort.
std::string read_block_name(const Node& node, const std::map<std::string, BlockOptions>& blocks, bool (*fits)(const BlockOptions&),
                            const std::string& what);

}  // namespace ropewalk
