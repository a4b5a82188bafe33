// A sub-layer is a mixer or a feed-forward: mathematics between a normed input and a branch. Norm, residual, hooks and recompute belong to
// the stack; who calls it, and on how many ranks, it does not know beyond its few named moves.
#pragma once

#include <cmath>
#include <string>

#include "layers/cost.h"
#include "parallel/context.h"
#include "parallel/parameter.h"

namespace ropewalk {

class SubLayer {
 public:
  virtual ~SubLayer() = default;

  virtual const char* kind() const = 0;  // in parameter names: "mamba2"
  // Names the parameters under `name`; called once for each call site.
  virtual void declare(Declarations& declarations, const std::string& name) = 0;
  // u [B, S, D] is normed; returns the branch, not the sum.
  virtual Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const = 0;
  virtual Ports ports() const { return {}; }
  // What its call sites remember in decoding: most sub-layers are one site, a parallel pair is two.
  virtual std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const = 0;
  // Nothing where it is not counted: then the model's is not known either.
  virtual std::optional<Cost> cost(const TokenShape&) const { return std::nullopt; }
};

// Weight of a linear layer, uniform in +-1/sqrt(fan_in): PyTorch's default. `scale` shrinks what writes into the residual stream.
inline Init linear_init(int64_t fan_in, double scale = 1) {
  const double bound = scale / std::sqrt(static_cast<double>(fan_in));
  return {Init::kUniform, -bound, bound};
}

// What every sub-layer is built with.
struct Widths {
  int64_t input = 0;        // of u
  int64_t output = 0;       // of the branch: d_model
  double output_scale = 1;  // of the initial output projection: 1 / sqrt(number of sub-layers)
};

}  // namespace ropewalk
