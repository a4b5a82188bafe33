// Causal softmax attention over runs, tiled as in FlashAttention-2 (Dao 2023): memory linear in the length, forward and backward.
//
//   y[t, h] = sum_s softmax_s(scale * <q[t, h], k[s, g]>) v[s, g],   g = h * K / H (grouped queries)
// over the keys s of t's query run that are not later than t and, with a window w, at most w - 1 earlier.
//
// q [B, S, H, P]; k, v [B', T, K, P] with K dividing H: views whose last dim is dense. `spans` lists every query run with the key runs it
// may see (documents, gathered or cached keys); each query token stands in exactly one run; a token without any visible key gives 0.
// Softmax statistics in the wide type. Keeps q, k, v, y and the log-sum-exp [B, H, S]. No order of summation depends on threads.
#pragma once

#include <optional>

#include "kernels/autograd/tape.h"
#include "kernels/tensor/runs.h"

namespace ropewalk {

struct AttentionOptions {
  double scale = 1;
  std::optional<int64_t> window;
};

Var attention(const Var& q, const Var& k, const Var& v, const Spans& spans, const AttentionOptions& options);
// Throws ShapeError where these do not fit together.
void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Spans& spans, const AttentionOptions& options);

// lse [B, H, S] is +inf where a token sees no key, which makes every probability that backward recomputes 0.
// Tokens outside of all spans are not written: not in y, lse or dq. dk and dv are written everywhere.
//
// Keys may come in parts, a launch each, that merge into what is there: y = sum_i e^(lse_i - lse) y_i, lse = log sum_i e^lse_i over the
// parts i. Backward takes the y and lse of all keys, and is a sum over the parts. Then y and dq are in the wide type; all results may be.
struct AttentionForward {
  const Tensor &y, &lse;
  const Tensor &q, &k, &v;
  const Spans& spans;
  const AttentionOptions& options;
  bool merge = false;  // y and lse hold the result over other keys
};
// dq, or dk and dv, may be empty handles: not wanted.
struct AttentionBackward {
  const Tensor &dq, &dk, &dv;
  const Tensor &dy, &q, &k, &v, &y, &lse;
  const Spans& spans;
  const AttentionOptions& options;
  bool merge = false;  // dq holds the gradient through other keys
};
void launch(Cpu, const AttentionForward& args);
void launch(Cpu, const AttentionBackward& args);
void launch(Cuda, const AttentionForward& args);
void launch(Cuda, const AttentionBackward& args);
// Two products over the visible pairs forward, five backward, where the probabilities are computed again.
Effort effort(const AttentionForward& args);
Effort effort(const AttentionBackward& args);

}  // namespace ropewalk
