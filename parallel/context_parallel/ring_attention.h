// Attention over documents that lie on several ranks, by ring (Liu, Zaharia, Abbeel 2023, arXiv 2310.01889).
//
// The keys and values of a rank are a *block*. In `ranks` steps the blocks go once round the context group, from each rank to the next: at
// step s a rank works on the block of the rank s before it, while the next one is under way, and merges what it finds with what it found
// over the blocks before. Backward goes round once more; sums of the gradients of keys and values follow their block from rank to rank, in
// the wide type, and then go home to its owner. Sums are made in the order of the steps, so bits do not depend on timing.
//
// A block that no query of a rank may see (later tokens, other documents, outside of the window) is not worked on there, and goes no
// further than to the last rank that sees any of it; its gradients set out at the first one that does. Every rank finds that out for all
// from the layout.
//
// However many ranks there are, one holds two blocks besides its own at a time, and in backward three of gradients: the sum that comes,
// what it finds itself, the sum that goes. Kept for backward: q, own k and v, y and the log-sum-exp; for the replay of a recomputed segment
// y and the log-sum-exp, so that it needs no round of its own.
#pragma once

#include "kernels/attention/attention.h"
#include "parallel/context.h"

namespace ropewalk {

// q [B, S, H, P]; k, v [B, S, K, P]: this rank's tokens.
Var ring_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options, const Context& ctx);

}  // namespace ropewalk
