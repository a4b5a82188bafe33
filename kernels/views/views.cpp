#include "kernels/views/views.h"

#include <numeric>
#include <utility>

namespace ropewalk {
namespace {

// [.., H, width] -> [.., H * width]: a view where the heads stand side by side, else a copy.
Tensor merge_last(const Tensor& x) {
  const bool side_by_side = x.dim(-2) == 1 || x.stride(-2) == x.dim(-1) * x.stride(-1);
  const Shape merged = x.shape().first(x.rank() - 2).then({x.dim(-2) * x.dim(-1)});
  return (side_by_side && x.numel() > 0 ? x : x.packed()).reshape(merged);
}

Tensors data_of(const Vars& vars) {
  Tensors tensors;
  for (const Var& var : vars) tensors.push_back(var.data());
  return tensors;
}

}  // namespace

Vars split_last(const Var& x, const std::vector<int64_t>& widths) {
  const Tensor& whole = x.data();
  expect(whole.rank() > 0, "split_last: x: expected a last dim, given {}", whole.shape());
  const int64_t sum = std::accumulate(widths.begin(), widths.end(), int64_t{0});
  expect(sum == whole.dim(-1), "split_last: widths: expected a sum of {} (last dim of x {}), given {}", whole.dim(-1), whole.shape(), sum);
  Tensors parts;
  int64_t begin = 0;
  for (const int64_t width : widths) parts.push_back(whole.narrow(-1, std::exchange(begin, begin + width), width));

  return record("split_last", {x}, parts, [shape = whole.shape(), dtype = whole.dtype(), device = whole.device(), widths](Backprop& b) {
    if (!b.wanted(0)) return;
    const Tensor dx = Tensor::empty(shape, dtype, device);
    int64_t begin = 0;
    for (size_t i = 0; i < widths.size(); ++i) {
      const Tensor part = dx.narrow(-1, std::exchange(begin, begin + widths[i]), widths[i]);
      if (const Tensor& dy = b.dy(static_cast<int>(i)))
        part.copy_from(dy);
      else
        part.fill(0);
    }
    b.give(0, dx);
  });
}

Var concat_last(const Vars& parts) {
  expect(!parts.empty(), "concat_last: expected at least one part");
  std::vector<int64_t> widths;
  for (const Var& part : parts) {
    const Tensor &x = part.data(), &first = parts[0].data();
    expect(x.rank() > 0 && x.dtype() == first.dtype() && x.shape().with(-1, 0) == first.shape().with(-1, 0),
           "concat_last: expected {} {} up to the last dim, given {} {}", first.dtype(), first.shape(), x.dtype(), x.shape());
    widths.push_back(x.dim(-1));
  }
  return record("concat_last", parts, concat(data_of(parts), -1), [widths](Backprop& b) {
    int64_t begin = 0;
    for (size_t i = 0; i < widths.size(); ++i)
      b.give(static_cast<int>(i), b.dy(0).narrow(-1, std::exchange(begin, begin + widths[i]), widths[i]));
  });
}

Var split_heads(const Var& x, int64_t width) {
  expect(x.shape().rank() > 0 && width > 0 && x.dim(-1) % width == 0,
         "split_heads: x: expected a last dim that is a multiple of {}, given {}", width, x.shape());
  return record("split_heads", {x}, x.data().split_dim(-1, width), [](Backprop& b) { b.give(0, merge_last(b.dy(0))); });
}

Var merge_heads(const Var& x) {
  expect(x.shape().rank() > 1, "merge_heads: x: expected [.., heads, width], given {}", x.shape());
  return record("merge_heads", {x}, merge_last(x.data()), [width = x.dim(-1)](Backprop& b) { b.give(0, b.dy(0).split_dim(-1, width)); });
}

}  // namespace ropewalk
