// From the number of ranks to the mesh: every size that a degree must divide is checked here, and nowhere else.
#include <algorithm>
#include <numeric>
#include <set>

#include "trainer/config/config.h"
#include "trainer/config/words.h"

namespace ropewalk {
namespace {

// A size that a degree cuts. Where `replicates`, more ranks than units are fine too, as long as each unit falls to equally many.
struct Cut {
  std::string name;  // the key, or an expression of keys
  std::string key;
  int64_t size;
  bool replicates = false;

  bool fits(int64_t degree) const { return size % degree == 0 || (replicates && degree % size == 0); }
};

class MeshResolver {
 public:
  MeshResolver(const Config& config, int ranks) : config_(config), options_(config.options), mesh_(options_.parallel), ranks_(ranks) {}

  Degrees resolve() const {
    expect_fit("parallel.context_runs", mesh_.context_runs, context_run_cuts());
    expect_fit("parallel.context", mesh_.context, context_cuts());
    expect_fit("parallel.tensor", mesh_.tensor, tensor_cuts());
    check_schedule();
    check_pipeline();
    check_stages();
    const Degrees degrees{
        .pipeline = mesh_.pipeline, .data = data_ranks(), .context = mesh_.context, .tensor = mesh_.tensor, .expert = mesh_.expert};
    expect_fit("parallel.expert", mesh_.expert, expert_cuts(degrees.data));
    check_batch(degrees.data);
    return degrees;
  }

 private:
  std::string place_of(const std::string& key, const std::string& reader) const {
    return config_.given(key) ? config_.where(key).seen_from(config_.where(reader)) : "by default";
  }

  void expect_fit(const std::string& key, int64_t degree, const std::vector<Cut>& cuts) const {
    for (const Cut& cut : cuts) {
      if (cut.fits(degree)) continue;
      throw config_.error(key, "expected a divisor {}of {} ({}, {}), given {}; try {}", cut.replicates ? "or a multiple " : "", cut.name,
                          cut.size, place_of(cut.key, key), degree, join_or(words_of(fitting_degrees(cuts))));
    }
  }

  std::vector<int64_t> fitting_degrees(const std::vector<Cut>& cuts) const {
    std::vector<int64_t> degrees;
    for (int degree = 1; degree <= ranks_; ++degree)
      if (ranks_ % degree == 0 && std::all_of(cuts.begin(), cuts.end(), [&](const Cut& cut) { return cut.fits(degree); }))
        degrees.push_back(degree);
    return degrees;
  }

  std::vector<Cut> context_run_cuts() const {
    if (options_.data.seq_len == 0) return {};
    return {{"data.seq_len", "data.seq_len", options_.data.seq_len}};
  }

  std::vector<Cut> context_cuts() const {
    if (options_.data.seq_len == 0) return {};
    const char* const name = mesh_.context_runs == 1 ? "data.seq_len" : "data.seq_len / parallel.context_runs";
    return {{name, "data.seq_len", options_.data.seq_len / mesh_.context_runs}};
  }

  std::vector<Cut> tensor_cuts() const {
    std::vector<Cut> cuts;
    for (const std::string& name : blocks_in_use()) add_cuts("model.blocks." + name, options_.model.blocks.at(name), cuts);
    if (mesh_.sequence && options_.data.seq_len > 0) {
      const char* const name = mesh_.context == 1 ? "data.seq_len" : "data.seq_len / parallel.context";
      cuts.push_back({name, "data.seq_len", options_.data.seq_len / mesh_.context});
    }
    return cuts;
  }

  std::vector<Cut> expert_cuts(int data) const {
    std::vector<Cut> cuts = {{"data x parallel.context", "parallel.data", data * mesh_.context}};
    for (const std::string& name : blocks_in_use()) {
      const std::string key = fmt::format("model.blocks.{}.experts", name);
      if (const auto* moe = std::get_if<MoeOptions>(&options_.model.blocks.at(name))) cuts.push_back({key, key, moe->experts});
    }
    return cuts;
  }

  std::set<std::string> blocks_in_use() const {
    std::set<std::string> names;
    for (const auto& layer : options_.model.layers) names.insert(layer.begin(), layer.end());
    for (const std::string& name : std::set(names))
      if (const auto* parallel = std::get_if<ParallelOptions>(&options_.model.blocks.at(name)))
        names.insert(parallel->branches.begin(), parallel->branches.end());
    return names;
  }

  void add_cuts(const std::string& block, const BlockOptions& options, std::vector<Cut>& cuts) const {
    const auto add = [&](const char* key, int64_t size, bool replicates = false) {
      cuts.push_back({block + key, block + key, size, replicates});
    };
    if (const auto* mamba1 = std::get_if<Mamba1Options>(&options)) {
      const int64_t inner = mamba1->expand * options_.model.d_model;
      cuts.push_back({block + ".expand x model.d_model", block + ".expand", inner});
      add(".heads", mamba1->heads, true);
    } else if (const auto* mamba = std::get_if<Mamba2Options>(&options)) {
      add(".heads", mamba->heads);
      add(".groups", mamba->groups, true);
    } else if (const auto* attention = std::get_if<AttentionBlockOptions>(&options)) {
      add(".heads", attention->heads);
      add(".kv_heads", attention->kv_heads, true);
    } else if (const auto* mlp = std::get_if<MlpOptions>(&options)) {
      add(".hidden", mlp->hidden);
    } else if (const auto* moe = std::get_if<MoeOptions>(&options)) {
      if (moe->shared) add(".shared.hidden", moe->shared->hidden);
      if (mesh_.expert_tensor) add(".hidden", moe->hidden);
    }
  }

  int64_t sub_layers() const {
    int64_t count = 0;
    for (const auto& layer : options_.model.layers) count += std::ssize(layer);
    return count;
  }

  void check_schedule() const {
    const bool interleaved = mesh_.schedule == PipelineSchedule::kInterleaved;
    if (interleaved && mesh_.virtual_stages == 1)
      throw config_.error("parallel.schedule", "interleaved needs parallel.virtual_stages of 2 or more, given 1 ({})",
                          place_of("parallel.virtual_stages", "parallel.schedule"));
    if (!interleaved && mesh_.virtual_stages > 1)
      throw config_.error("parallel.virtual_stages", "expected 1 with parallel.schedule {} ({}), given {}; or use interleaved",
                          name_of(mesh_.schedule), place_of("parallel.schedule", "parallel.virtual_stages"), mesh_.virtual_stages);
  }

  void check_pipeline() const {
    if (mesh_.pipeline > sub_layers())
      throw config_.error("parallel.pipeline", "expected at most {} stages (a sub-layer of model.layout each, {}), given {}", sub_layers(),
                          place_of("model.layout", "parallel.pipeline"), mesh_.pipeline);
    if (int64_t{mesh_.pipeline} * mesh_.chunks() > sub_layers())
      throw config_.error("parallel.virtual_stages", "expected at most {} stages (a sub-layer of model.layout each, {}), given {}",
                          sub_layers(), place_of("model.layout", "parallel.virtual_stages"), stage_count());
  }

  // "pipeline 2 x virtual_stages 3 = 6"
  std::string stage_count() const {
    return fmt::format("pipeline {} x virtual_stages {} = {}", mesh_.pipeline, mesh_.chunks(), int64_t{mesh_.pipeline} * mesh_.chunks());
  }

  void check_stages() const {
    if (mesh_.stages.empty()) return;
    if (std::ssize(mesh_.stages) != int64_t{mesh_.pipeline} * mesh_.chunks())
      throw config_.error("parallel.stages", "expected a number a stage ({}), given {}", stage_count(), mesh_.stages.size());
    const int64_t sum = std::accumulate(mesh_.stages.begin(), mesh_.stages.end(), int64_t{0});
    if (sum != sub_layers())
      throw config_.error("parallel.stages", "expected numbers that sum to {} (sub-layers of model.layout, {}), given {}", sub_layers(),
                          place_of("model.layout", "parallel.stages"), sum);
  }

  int data_ranks() const {
    const double others = double(mesh_.pipeline) * mesh_.context * mesh_.tensor;  // of any size: an int could overflow
    const std::string product = fmt::format("pipeline {} x context {} x tensor {}", mesh_.pipeline, mesh_.context, mesh_.tensor);
    if (others > ranks_ || ranks_ % static_cast<int>(others) != 0)
      throw config_.error("parallel", "expected degrees whose product divides the number of ranks ({}), given {} = {}", ranks_, product,
                          others);
    const int left = ranks_ / static_cast<int>(others);
    if (mesh_.data && *mesh_.data != left)
      throw config_.error("parallel.data", "expected {} ({} ranks / {}), given {}", left, ranks_, product, *mesh_.data);
    return left;
  }

  void check_batch(int64_t data) const {
    const int64_t batch = options_.train.batch, unit = data * options_.train.micro_batch, below = batch / unit * unit;
    if (batch == below) return;  // also where no batch is given
    throw config_.error("train.batch", "expected a multiple of {} (data {} x train.micro_batch {}, {}), given {}; try {}", unit, data,
                        options_.train.micro_batch, place_of("train.micro_batch", "train.batch"), batch,
                        below == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit));
  }

  const Config& config_;
  const Options& options_;
  const MeshOptions& mesh_;
  int ranks_;
};

}  // namespace

Degrees resolve_mesh(const Config& config, int ranks) { return MeshResolver(config, ranks).resolve(); }

}  // namespace ropewalk
