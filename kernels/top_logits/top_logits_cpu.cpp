#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/matmul/matmul.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/top_logits/top_logits.h"

namespace ropewalk {
namespace {

// A block of logits: this many scored tokens by this many rows of weight.
constexpr int64_t kTokens = 1024, kRows = 1024;
constexpr int64_t kTokensATask = 8;

template <class W>
struct Top {
  W logit = -std::numeric_limits<W>::infinity();
  int64_t row = -1;
};

template <class T>
Tensor gathered(const Tensor& x, const std::vector<int64_t>& tokens, int64_t begin, int64_t end) {
  const auto from = rows_of<T>(x, "top_logits: x");
  const Tensor block = Tensor::empty({end - begin, from.width}, x.dtype());
  T* to = block.data<T>();
  for (int64_t i = begin; i < end; ++i) to = std::copy_n(from[tokens[i]], from.width, to);
  return block;
}

// The tops of a block of tokens over all rows of weight.
template <class W>
std::vector<Top<W>> tops_of(const Tensor& x, const Tensor& weight, int64_t first_row) {
  std::vector<Top<W>> tops(x.dim(0));
  for (int64_t begin = 0; begin < weight.dim(0); begin += kRows) {
    const Tensor rows = weight.narrow(0, begin, std::min(kRows, weight.dim(0) - begin));
    const Tensor logits = Tensor::empty({x.dim(0), rows.dim(0)}, wide(x.dtype()));
    launch(Cpu{}, MatMul{.c = logits, .a = x, .b = rows, .transpose_b = true});
    const auto block = rows_of<W>(logits);
    parallel_ranges(block.count, kTokensATask, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const W* best = std::max_element(block[i], block[i] + block.width);
        if (*best > tops[i].logit) tops[i] = {*best, first_row + begin + (best - block[i])};
      }
    });
  }
  return tops;
}

template <class T>
void run(const TopLogits& args) {
  using W = Wide<T>;
  args.top_logit.fill(0);
  args.top_row.fill(-1);
  W* top_logit = args.top_logit.data<W>();
  int64_t* top_row = args.top_row.data<int64_t>();
  const int64_t* target = args.target.data<int64_t>();
  std::vector<int64_t> scored;
  for (int64_t i = 0; i < args.target.numel(); ++i)
    if (target[i] != kIgnored) scored.push_back(i);
  for (int64_t begin = 0; begin < std::ssize(scored); begin += kTokens) {
    const int64_t end = std::min(begin + kTokens, std::ssize(scored));
    const auto tops = tops_of<W>(gathered<T>(args.x, scored, begin, end), args.weight, args.first_row);
    for (int64_t i = begin; i < end; ++i) {
      top_logit[scored[i]] = tops[i - begin].logit;
      top_row[scored[i]] = tops[i - begin].row;
    }
  }
}

}  // namespace

void launch(Cpu, const TopLogits& args) {
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace ropewalk
