#include "kernels/attention/attention.h"

#include <algorithm>

namespace ropewalk {
namespace {

void expect_heads(const char* name, const Tensor& x, DType dtype) {
  expect(x.rank() == 4, "attention: {}: expected [batch, tokens, heads, width], given {}", name, x.shape());
  expect(x.dtype() == dtype, "attention: {}: expected {} (dtype of q), given {}", name, dtype, x.dtype());
  expect(x.dim(-1) <= 1 || x.stride(-1) == 1, "attention: {}: expected a dense last dim, given stride {}", name, x.stride(-1));
}

template <class AnyRun>
void expect_inside(const char* name, const AnyRun& run, const Tensor& x) {
  expect(run.row >= 0 && run.row < x.dim(0) && run.begin >= 0 && run.length >= 0 && run.begin + run.length <= x.dim(1),
         "attention: spans: expected runs inside {} {}, given tokens [{}, {}) of row {}", name, x.shape(), run.begin,
         run.begin + run.length, run.row);
}

}  // namespace

void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Spans& spans, const AttentionOptions& options) {
  expect_heads("q", q, q.dtype());
  expect_heads("k", k, q.dtype());
  expect_heads("v", v, q.dtype());
  expect(v.shape() == k.shape(), "attention: v: expected {} (shape of k), given {}", k.shape(), v.shape());
  expect(k.dim(3) == q.dim(3), "attention: k: expected heads of width {} (as q), given {}", q.dim(3), k.dim(3));
  expect(q.dim(2) > 0 && k.dim(2) > 0 && q.dim(2) % k.dim(2) == 0, "attention: k: expected a divisor of {} heads (of q), given {}",
         q.dim(2), k.dim(2));
  expect(options.window.value_or(1) >= 1, "attention: window: expected at least 1, given {}", options.window.value_or(1));
  for (const QueryRun& run : spans) {
    expect_inside("q", run, q);
    for (const KeyRun& keys : run.keys) expect_inside("k", keys, k);
  }
}

namespace {

// Of a query and a key that it sees.
int64_t visible_pairs(const Spans& spans, const std::optional<int64_t>& window) {
  int64_t pairs = 0;
  for (const QueryRun& queries : spans)
    for (const KeyRun& keys : queries.keys)
      for (int64_t q = queries.position; q < queries.position + queries.length; ++q) {
        const int64_t first = window ? std::max(keys.position, q - *window + 1) : keys.position;
        pairs += std::max<int64_t>(0, std::min(keys.position + keys.length, q + 1) - first);
      }
  return pairs;
}

// Where the kernel leaves tokens out, because no span holds them, there must be zeros.
Tensor with_zeros_outside(const Spans& spans, const Tensor& result) {
  int64_t covered = 0;
  for (const QueryRun& run : spans) covered += run.length;
  if (covered < result.dim(0) * result.dim(1)) result.fill(0);
  return result;
}

}  // namespace

Var attention(const Var& q, const Var& k, const Var& v, const Spans& spans, const AttentionOptions& options) {
  check_attention(q.data(), k.data(), v.data(), spans, options);
  const Tensor y = with_zeros_outside(spans, empty_like(q.data()));
  const Tensor lse = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, wide(q.dtype()), y.device());
  launch(y.device(), AttentionForward{.y = y, .lse = lse, .q = q.data(), .k = k.data(), .v = v.data(), .spans = spans, .options = options});
  return record("attention", {q, k, v}, y, [q = q.data(), k = k.data(), v = v.data(), y, lse, spans, options](Backprop& b) {
    const bool keys_wanted = b.wanted(1) || b.wanted(2);
    const Tensor dq = b.wanted(0) ? with_zeros_outside(spans, b.room(0, q)) : Tensor();
    const Tensor dk = keys_wanted ? b.room(1, k) : Tensor(), dv = keys_wanted ? b.room(2, v) : Tensor();
    launch(y.device(), AttentionBackward{.dq = dq,
                                         .dk = dk,
                                         .dv = dv,
                                         .dy = b.dy(0).packed(),
                                         .q = q,
                                         .k = k,
                                         .v = v,
                                         .y = y,
                                         .lse = lse,
                                         .spans = spans,
                                         .options = options});
    b.give(0, dq);
    b.give(1, dk);
    b.give(2, dv);
  });
}

Effort effort(const AttentionForward& args) {
  const double pairs = static_cast<double>(visible_pairs(args.spans, args.options.window) * args.q.dim(2));
  return {.flops = 4 * pairs * static_cast<double>(args.q.dim(3)),
          .bytes = static_cast<double>(args.q.bytes() + args.k.bytes() + args.v.bytes() + args.y.bytes())};
}

Effort effort(const AttentionBackward& args) {
  const double pairs = static_cast<double>(visible_pairs(args.spans, args.options.window) * args.q.dim(2));
  return {.flops = 10 * pairs * static_cast<double>(args.q.dim(3)),
          .bytes = static_cast<double>(4 * args.q.bytes() + 2 * (args.k.bytes() + args.v.bytes()))};
}

}  // namespace ropewalk
