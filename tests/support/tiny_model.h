// One small model that holds everything: Mamba-2, attention with grouped queries and a window, MLP, a parallel pair, a shared block called
// twice on [x; embedding], shared keys and values, a tied head; and rows of packed documents for it.
#pragma once

#include "data/sequence.h"
#include "trainer/options.h"

namespace ropewalk::testing {

Options tiny_options();

// Row i of an endless set: tokens drawn at random, cut into documents at random places, some of a single token.
Sequence tiny_sequence(int64_t i, int64_t seq_len, int64_t vocabulary);

}  // namespace ropewalk::testing
