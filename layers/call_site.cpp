#include "layers/call_site.h"

#include "kernels/rms_norm/rms_norm.h"
#include "kernels/views/views.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {
namespace {
constexpr double kNormEps = 1e-5;

}  // namespace

Ports CallSite::ports() const {
  Ports ports = core_->ports();
  if (options_.concat_embedding) ports.reads.push_back(kEmbeddingSlot);
  return ports;
}

void CallSite::declare(Declarations& declarations) {
  core_->declare(declarations, options_.core_name);
  const int64_t width = options_.concat_embedding ? 2 * options_.d_model : options_.d_model;
  norm_weight_ = declarations.declare({.name = options_.name + ".input_norm",
                                       .shape = {width},
                                       .kind = Kind::kStack,
                                       .role = Role::kNorm,
                                       .init = {Init::kConstant, 1},
                                       .split = {},
                                       .owed_over_tensor = declarations.sequence_parallel()});
}

Var CallSite::normed(const Carry& carry, const Context& ctx) const {
  if (!options_.concat_embedding) return rms_norm(carry.x, norm_weight_, kNormEps, ctx.dtype);
  return rms_norm(concat_last({carry.x, carry.shared.at(kEmbeddingSlot).front()}), norm_weight_, kNormEps, ctx.dtype);
}

Carry CallSite::forward(Carry carry, const Context& ctx) const {
  const Ports ports = this->ports();
  // Runs twice under recompute, the second time after this function has returned: it keeps what it needs by value.
  const auto body = [this, ports, ctx](const Vars& in, Pass& pass) {
    Context here = ctx;
    here.pass = &pass;
    Carry inner{.x = in[0], .shared = {}, .losses = {}};
    unflatten(in, ports.reads, inner);
    const Var branch = core_->forward(normed(inner, here), inner, here);
    inner.x = add(inner.x, branch);
    Vars out = flatten(inner, ports.writes);
    out.insert(out.end(), inner.losses.begin(), inner.losses.end());
    return out;
  };
  const Vars out = Tape::segment({}, flatten(carry, ports.reads), body, options_.recompute);
  const auto losses = unflatten(out, ports.writes, carry);
  carry.losses.insert(carry.losses.end(), losses, out.end());
  return carry;
}

}  // namespace ropewalk
