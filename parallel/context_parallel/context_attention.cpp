#include "parallel/context_parallel/cached_keys.h"
#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/deal.h"
#include "parallel/context_parallel/ring_attention.h"
#include "parallel/context_parallel/spans.h"

namespace ropewalk {

Var context_attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options, const Context& ctx, int slot) {
  if (ctx.decoding()) {
    const KeyValues seen = cached_keys(k.data(), v.data(), options.window, ctx, slot);
    return attention(q, seen.k, seen.v, seen.spans, options);
  }
  const Layout& layout = ctx.layout();
  if (ctx.cp.group.size() > 1 && something_enters(layout)) return ring_attention(q, k, v, options, ctx);
  return attention(q, k, v, spans_of(layout.runs, layout.runs, options.window), options);
}

}  // namespace ropewalk
