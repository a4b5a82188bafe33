#include "kernels/affine_scan/affine_scan.h"

namespace ropewalk {
namespace {

// Every operand is dense; an empty handle is one that the caller left out.
void check(const Tensor& x, const Shape& expected, const char* what) {
  if (x) expect(x.shape() == expected && x.contiguous(), "affine_scan: {}: expected dense {}, given {}", what, expected, x.shape());
}

void check(const Tensor& decay, const Tensor& states, const std::vector<int64_t>& first_chunk) {
  expect(states.rank() == 4, "affine_scan: states: expected [C, H, P, N], given {}", states.shape());
  check(decay, states.shape().first(2), "decay");
  expect(!first_chunk.empty() && first_chunk.back() == states.dim(0), "affine_scan: first_chunk: expected it to end with {} chunks",
         states.dim(0));
}

}  // namespace

void check(const AffineScanForward& args) {
  check(args.decay, args.local, args.first_chunk);
  const Shape states = args.local.shape(), runs = states.with(0, static_cast<int64_t>(args.first_chunk.size()) - 1);
  check(args.local, states, "local");
  check(args.entering, states, "entering");
  check(args.leaving, runs, "leaving");
  check(args.start, runs, "start");
  check(args.total_decay, runs.first(2), "total_decay");
}

void check(const AffineScanBackward& args) {
  check(args.decay, args.entering, args.first_chunk);
  const Shape states = args.entering.shape(), runs = states.with(0, static_cast<int64_t>(args.first_chunk.size()) - 1);
  check(args.entering, states, "entering");
  check(args.d_local, states, "d_local");
  check(args.d_entering, states, "d_entering");
  check(args.d_start, runs, "d_start");
  check(args.d_leaving, runs, "d_leaving");
  check(args.d_decay, states.first(2), "d_decay");
}

}  // namespace ropewalk
