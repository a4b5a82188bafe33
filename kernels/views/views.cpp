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

namespace {

// The gradient of a whole, and the places of its parts in it.
class PartsGradient {
 public:
  PartsGradient(const Tensor& whole, std::vector<int64_t> widths)
      : shape_(whole.shape()), dtype_(whole.dtype()), device_(whole.device()), widths_(std::move(widths)) {}

  Tensor part(const Backprop& b, int i) {
    if (!whole_) whole_ = b.place(0);
    if (!whole_) whole_ = Tensor::empty(shape_, dtype_, device_);
    const int64_t begin = std::accumulate(widths_.begin(), widths_.begin() + i, int64_t{0});
    return whole_.narrow(-1, begin, widths_[static_cast<size_t>(i)]);
  }

  // All parts in their places.
  Tensor whole(const Backprop& b) {
    for (int i = 0; i < static_cast<int>(widths_.size()); ++i) {
      const Tensor place = part(b, i), &dy = b.dy(i);
      if (!dy)
        place.fill(0);
      else if (dy.storage() != place.storage())
        place.copy_from(dy);
    }
    return std::exchange(whole_, {});
  }

 private:
  Shape shape_;
  DType dtype_;
  Device device_;
  std::vector<int64_t> widths_;
  Tensor whole_;
};

}  // namespace

Vars split_last(const Var& x, const std::vector<int64_t>& widths) {
  const Tensor& whole = x.data();
  expect(whole.rank() > 0, "split_last: x: expected a last dim, given {}", whole.shape());
  const int64_t sum = std::accumulate(widths.begin(), widths.end(), int64_t{0});
  expect(sum == whole.dim(-1), "split_last: widths: expected a sum of {} (last dim of x {}), given {}", whole.dim(-1), whole.shape(), sum);
  Tensors parts;
  int64_t begin = 0;
  for (const int64_t width : widths) parts.push_back(whole.narrow(-1, std::exchange(begin, begin + width), width));

  const auto gradient = std::make_shared<PartsGradient>(whole, widths);
  const auto rule = [gradient](Backprop& b) {
    if (b.wanted(0)) b.give(0, gradient->whole(b));
  };
  return record("split_last", {x}, parts, rule, [gradient](const Backprop& b, int i) { return gradient->part(b, i); });
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
  const auto place = [width](const Backprop& b, int) {
    const Tensor rows = b.place(0);
    return rows ? rows.split_dim(-1, width) : rows;
  };
  return record(
      "split_heads", {x}, x.data().split_dim(-1, width), [](Backprop& b) { b.give(0, merge_last(b.dy(0))); }, place);
}

Var merge_heads(const Var& x) {
  expect(x.shape().rank() > 1, "merge_heads: x: expected [.., heads, width], given {}", x.shape());
  return record("merge_heads", {x}, merge_last(x.data()), [width = x.dim(-1)](Backprop& b) { b.give(0, b.dy(0).split_dim(-1, width)); });
}

}  // namespace ropewalk
