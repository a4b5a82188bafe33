// One place in the stack: x <- x + residual_scale * core(norm(x)). The core may be shared with other places; the norm, the recompute policy
// and the states are the place's own.
#pragma once

#include "layers/norm.h"
#include "layers/sub_layer.h"

namespace ropewalk {

struct CallSiteOptions {
  std::string name;  // of the place: "layers.3.mamba2"
  int64_t d_model = 0;
  bool concat_embedding = false;  // the core reads norm([x; embedding])
  NormOptions norm{};
  double residual_scale = 1;
  Recompute recompute = Recompute::kNone;
  std::string core_name;  // of the core's parameters: the place's, or "shared.G.mamba2"
};

class CallSite {
 public:
  CallSite(std::shared_ptr<SubLayer> core, CallSiteOptions options)
      : core_(std::move(core)), options_(std::move(options)), norm_(options_.norm) {}

  void declare(Declarations& declarations);
  Carry forward(Carry carry, const Context& ctx) const;
  Ports ports() const;
  const SubLayer& core() const { return *core_; }
  const std::string& name() const { return options_.name; }

 private:
  Var normed(const Carry& carry, const Context& ctx) const;

  std::shared_ptr<SubLayer> core_;
  CallSiteOptions options_;
  Norm norm_;
  int unit_ = 0;
};

// What the residual stream is published as, right behind the embedding.
constexpr Slot kEmbeddingSlot{Slot::kEmbedding, 0};

}  // namespace ropewalk
