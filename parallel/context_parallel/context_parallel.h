// What enters a rank's runs from where they continue: the neighbours' pieces (context parallelism), the cache (decoding), or the reset
// value (a document opens). One call each for the convolution's halo, the scan's state and the keys and values; the same call in all cases.
//
// `slot` is the index in the call site's State of what this call remembers when decoding: the last tokens [B, width, C], the state
// [B, H, P, N] or [B, C, N], or keys and (in the next slot) values [B, capacity, K, P], position p at p % capacity. Each call sets
// State::length.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/ssd/ssd.h"
#include "parallel/context.h"

namespace ropewalk {

// The `width` values before each piece of x [B, S, C]: [E, width, C], zero where the document does not reach back that far; empty where
// nothing can enter (one rank with one piece a row, not decoding) or width is 0. Pieces may be shorter than `width`.
// Backward: the halo's gradient goes back to the ranks that own those tokens.
Var enter_halo(const Var& x_BSC, int64_t width, const Context& ctx, int slot);

// The state that enters each chunk [C, H, P, N], by an affine fold over chunks, runs and ranks: each rank tells all others, for each of its
// pieces, the decay over the piece (zero if a document opens in it) and the state it leaves: bytes independent of the sequence length.
// The returned tensor is pending: what does not need it can be computed meanwhile. Backward folds from the end.
Var enter_state(const SsdStates& states, const std::vector<int64_t>& first_chunk, const Context& ctx, int slot);

// Mamba-1's scan from the states that enter its runs: in.h0 is set here. Its decays differ for every channel and state, and its states are
// never in memory, so ranks tell each other what a first pass over the runs that cross a cut finds; backward passes back over those
// likewise.
SelectiveScan enter_scan(SelectiveScanInputs in, const Context& ctx, int slot);

// Causal attention (kernels/attention) of this rank's queries to the keys of their documents, wherever those are: here, on other ranks
// (ring_attention.h), in the cache (cached_keys.h).
Var context_attention(const Var& q_BSHP, const Var& k_BSKP, const Var& v_BSKP, const AttentionOptions& options, const Context& ctx,
                      int slot);

}  // namespace ropewalk
