#include "layers/build_stack.h"

#include <algorithm>

#include "layers/attention.h"
#include "layers/mamba1.h"
#include "layers/mamba2.h"
#include "layers/mlp.h"
#include "layers/moe.h"
#include "layers/parallel_mixers.h"

namespace ropewalk {
namespace {

class Builder {
 public:
  Builder(const ModelOptions& options, const TensorParallel& tp, const ExpertParallel& ep, const RecomputePolicy& recompute)
      : options_(options), tp_(tp), ep_(ep), recompute_(recompute) {
    for (const auto& layer : options.layers) sub_layers_ += static_cast<int64_t>(layer.size());
  }

  std::vector<CallSite> build() {
    std::vector<CallSite> sites;
    for (int layer = 0; layer < static_cast<int>(options_.layers.size()); ++layer)
      for (size_t i = 0; i < options_.layers[layer].size(); ++i) sites.push_back(site(layer, i));
    return sites;
  }

 private:
  const SharedBlockOptions* sharing_of(int layer) const {
    for (const SharedBlockOptions& shared : options_.shared)
      if (std::find(shared.at.begin(), shared.at.end(), layer) != shared.at.end()) return &shared;
    return nullptr;
  }

  CallSite site(int layer, size_t place) {
    const std::string& block = options_.layers[layer][place];
    const SharedBlockOptions* shared = sharing_of(layer);
    const bool concat = shared && shared->concat_embedding && place == 0;
    std::shared_ptr<SubLayer> core;
    if (shared) {
      auto& known = shared_cores_[{shared->name, place}];
      if (!known) known = make(block, layer, concat);
      core = known;
    } else {
      core = make(block, layer, concat);
    }
    const std::string kind = unique_kind(*core, layer);
    const std::string site_name = fmt::format("layers.{}.{}", layer, kind);
    return CallSite(core, {.name = site_name,
                           .d_model = options_.d_model,
                           .concat_embedding = concat,
                           .norm = options_.norm,
                           .residual_scale = options_.scales.residual,
                           .recompute = recompute_.of(core->kind()),
                           .core_name = shared ? fmt::format("shared.{}.{}", shared->name, kind) : site_name});
  }

  // mlp, and then mlp_1 for a second of its kind in the same layer.
  std::string unique_kind(const SubLayer& core, int layer) {
    const int before = kinds_in_layer_[{layer, core.kind()}]++;
    return before == 0 ? core.kind() : fmt::format("{}_{}", core.kind(), before);
  }

  KeyValueSharing key_values(int layer) const {
    KeyValueSharing sharing;
    for (const KvShareOptions& kv : options_.kv) {
      const Slot slot{Slot::kKeyValue, kv.from};
      if (kv.from == layer) sharing.publish = slot;
      if (std::find(kv.to.begin(), kv.to.end(), layer) != kv.to.end()) sharing.read = slot;
    }
    return sharing;
  }

  std::unique_ptr<SubLayer> make(const std::string& block, int layer, bool concat) const {
    const BuildContext build{.input = concat ? 2 * options_.d_model : options_.d_model,
                             .output = options_.d_model,
                             .sub_layers = sub_layers_,
                             .norm = options_.norm,
                             .init = options_.init};
    return std::visit([&](const auto& chosen) { return make(chosen, layer, build); }, options_.blocks.at(block));
  }
  std::unique_ptr<SubLayer> make(const Mamba1Options& block, int, const BuildContext& build) const {
    return std::make_unique<Mamba1>(block, build, tp_);
  }
  std::unique_ptr<SubLayer> make(const Mamba2Options& block, int, const BuildContext& build) const {
    return std::make_unique<Mamba2>(block, build, tp_);
  }
  std::unique_ptr<SubLayer> make(const AttentionBlockOptions& block, int layer, const BuildContext& build) const {
    return std::make_unique<Attention>(block, build, key_values(layer), tp_);
  }
  std::unique_ptr<SubLayer> make(const MlpOptions& block, int, const BuildContext& build) const {
    return std::make_unique<Mlp>(block, build, tp_);
  }
  std::unique_ptr<SubLayer> make(const MoeOptions& block, int, const BuildContext& build) const {
    return std::make_unique<Moe>(block, build, tp_, ep_);
  }
  std::unique_ptr<SubLayer> make(const ParallelOptions& block, int layer, const BuildContext& build) const {
    std::vector<std::unique_ptr<SubLayer>> branches;
    for (const std::string& name : block.branches)
      branches.push_back(std::visit([&](const auto& branch) { return make(branch, layer, build); }, options_.blocks.at(name)));
    return std::make_unique<ParallelMixers>(block, build, std::move(branches));
  }

  const ModelOptions& options_;
  const TensorParallel& tp_;
  const ExpertParallel& ep_;
  const RecomputePolicy& recompute_;
  int64_t sub_layers_ = 0;
  std::map<std::pair<int, std::string>, int> kinds_in_layer_;
  std::map<std::pair<std::string, size_t>, std::shared_ptr<SubLayer>> shared_cores_;
};

}  // namespace

std::vector<CallSite> build_stack(const ModelOptions& options, const TensorParallel& tp, const ExpertParallel& ep,
                                  const RecomputePolicy& recompute) {
  return Builder(options, tp, ep, recompute).build();
}

}  // namespace ropewalk
