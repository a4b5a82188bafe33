#include "layers/call_site.h"

#include "kernels/views/views.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {

Ports CallSite::ports() const {
  Ports ports = core_->ports();
  if (options_.concat_embedding) ports.reads.push_back(kEmbeddingSlot);
  return ports;
}

void CallSite::declare(Declarations& declarations) {
  unit_ = declarations.enter_unit();
  core_->declare(declarations, options_.core_name);
  const int64_t width = options_.concat_embedding ? 2 * options_.d_model : options_.d_model;
  norm_.declare(declarations, options_.name + ".input_norm", width);
}

Var CallSite::normed(const Carry& carry, const Context& ctx) const {
  if (!options_.concat_embedding) return norm_(carry.x, ctx.dtype);
  return norm_(concat_last({carry.x, carry.shared.at(kEmbeddingSlot).front()}), ctx.dtype);
}

Carry CallSite::forward(Carry carry, const Context& ctx) const {
  const ModelPlace place(options_.name);
  const Ports ports = this->ports();
  // Runs twice under recompute, the second time after this function has returned: it keeps what it needs by value.
  const auto body = [this, ports, ctx](const Vars& in, Pass& pass) {
    Context here = ctx;
    here.pass = &pass;
    Carry inner{.x = in[0], .shared = {}, .losses = {}};
    unflatten(in, ports.reads, inner);
    const Var branch = core_->forward(normed(inner, here), inner, here);
    inner.x = weighted_sum({inner.x, branch}, {1, options_.residual_scale});
    Vars out = flatten(inner, ports.writes);
    out.insert(out.end(), inner.losses.begin(), inner.losses.end());
    return out;
  };
  const Vars out = Tape::segment(ctx.hooks(unit_), flatten(carry, ports.reads), body, options_.recompute);
  const auto losses = unflatten(out, ports.writes, carry);
  carry.losses.insert(carry.losses.end(), losses, out.end());
  return carry;
}

}  // namespace ropewalk
