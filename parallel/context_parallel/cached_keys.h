// Decoding: the keys and values that this call's queries see, of which most are in the call site's State.
#pragma once

#include <optional>

#include "parallel/context.h"

namespace ropewalk {

struct KeyValues {
  Tensor k, v;  // [B, T, K, P]
  Spans spans;
};
// Puts k and v [B, S, K, P] behind what State::tensors[slot] and [slot + 1] hold. `window` bounds what a cache must keep: window - 1 tokens
// are enough. Without one it must hold the whole sequence.
KeyValues cached_keys(const Tensor& k, const Tensor& v, const std::optional<int64_t>& window, const Context& ctx, int slot);

}  // namespace ropewalk
