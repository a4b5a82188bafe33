#include <algorithm>

#include "kernels/embedding/embedding.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task
constexpr int64_t kColumns = 64;     // of dweight a task: each task walks through all ids

template <class To, class From>
void copy_row(int64_t n, const From* from, To* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = To(static_cast<Wide<To>>(from[i]));
}

template <class W, class T>
void add_row(int64_t n, const T* from, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += static_cast<W>(from[i]);
}

template <class To, class From>
void forward(const EmbeddingForward& args) {
  const Rows<From> weight = rows_of<From>(args.weight, "embedding: weight");
  const Rows<To> y = rows_of<To>(args.y);
  const int64_t* ids = args.ids.data<int64_t>();
  parallel_ranges(y.count, std::max<int64_t>(1, kGrain / y.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = ids[i] - args.first_row;
      if (row >= 0 && row < weight.count)
        vectorized<copy_row<To, From>>(y.width, weight[row], y[i]);
      else
        std::fill_n(y[i], y.width, To(0));
    }
  });
}

// A task owns a range of columns and adds in the order of the tokens, so a row met twice needs no lock and its sum no luck.
template <class W, class T>
void backward(const EmbeddingBackward& args) {
  const Rows<W> dweight = rows_of<W>(args.dweight, "embedding: dweight");
  const Rows<T> dy = rows_of<T>(args.dy, "embedding: dy");
  const int64_t* ids = args.ids.data<int64_t>();
  parallel_ranges(dy.width, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < dy.count; ++i) {
      const int64_t row = ids[i] - args.first_row;
      if (row >= 0 && row < dweight.count) vectorized<add_row<W, T>>(end - begin, dy[i] + begin, dweight[row] + begin);
    }
  });
}

}  // namespace

void launch(Cpu, const EmbeddingForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class To>(std::type_identity<To>) {
    dispatch_float(args.weight.dtype(), [&]<class From>(std::type_identity<From>) { forward<To, From>(args); });
  });
}

void launch(Cpu, const EmbeddingBackward& args) {
  if (args.dy.numel() == 0 || args.dweight.numel() == 0) return;
  dispatch_float(args.dy.dtype(), [&]<class T>(std::type_identity<T>) {
    if (args.dweight.dtype() == DType::kFloat64)
      backward<double, T>(args);
    else
      backward<float, T>(args);
  });
}

}  // namespace ropewalk
