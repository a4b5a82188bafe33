#include "kernels/flat/flat.h"

namespace ropewalk {

void check_span(const Tensor& x, DType dtype, int64_t n, const char* what) {
  expect(x.rank() == 1 && x.numel() == n && x.contiguous() && x.dtype() == dtype, "{}: expected a dense {} [{}], given {} {}", what, dtype,
         n, x.dtype(), x.shape());
}

void check(const SumOfSquares& args) {
  expect(args.x.contiguous(), "sum_of_squares: x: expected a dense tensor, given a view {}", args.x.shape());
}

void check(const SumInto& args) {
  const Tensor& first = args.spans.front();
  for (const Tensors* tensors : {&args.spans, &args.targets})
    for (const Tensor& span : *tensors)
      expect(span.contiguous() && span.shape() == first.shape() && span.dtype() == first.dtype(),
             "sum_into: expected dense {} {} each, given {} {}", first.dtype(), first.shape(), span.dtype(), span.shape());
}

}  // namespace ropewalk
