// The logits of a router: y = x weight^T + bias, computed wide whatever x is. A product with few columns over all tokens: x is widened in
// blocks that stay in the cache.
// x [.., D] rows of any dtype T; weight [E, D] and bias [E] (may be absent) wide; y [.., E] wide.
// Backward: dx in T; dweight and dbias are deferrable. Keeps x.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var router_logits(const Var& x, const Var& weight, const Var& bias);

// All but x are dense.
struct RouterLogitsForward {
  const Tensor& y;
  const Tensor &x, &weight, &bias;  // bias empty: none
};
struct RouterLogitsBackwardInput {
  const Tensor& dx;
  const Tensor &dy, &weight;
};
// dweight += dy^T x; dbias += sum of dy. Either may be empty.
struct RouterLogitsBackwardWeight {
  const Tensor &dweight, &dbias;
  const Tensor &dy, &x;
};
void launch(Cpu, const RouterLogitsForward& args);
void launch(Cpu, const RouterLogitsBackwardInput& args);
void launch(Cpu, const RouterLogitsBackwardWeight& args);
void launch(Cuda, const RouterLogitsForward& args);
void launch(Cuda, const RouterLogitsBackwardInput& args);
void launch(Cuda, const RouterLogitsBackwardWeight& args);

// A product each.
inline double router_product(const Tensor& logits, int64_t width) { return 2.0 * static_cast<double>(logits.numel() * width); }
inline Effort effort(const RouterLogitsForward& args) { return {.flops = router_product(args.y, args.x.dim(-1))}; }
inline Effort effort(const RouterLogitsBackwardInput& args) { return {.flops = router_product(args.dy, args.dx.dim(-1))}; }
inline Effort effort(const RouterLogitsBackwardWeight& args) {
  return {.flops = args.dweight ? router_product(args.dy, args.x.dim(-1)) : 0};
}

}  // namespace ropewalk
