#include <array>
#include <vector>

#include "kernels/gated_sum/gated_sum.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements a task
constexpr int64_t kBlock = 256;      // channels whose weights stay in L1

// top = max(top, logit)
template <class T>
void raise(int64_t n, const T* logit, Wide<T>* top) {
  for (int64_t i = 0; i < n; ++i) top[i] = std::max(top[i], Wide<T>(logit[i]));
}

// weight = e^(logit - top); sum += weight
template <class T>
void exponentiate(int64_t n, const T* logit, const Wide<T>* top, Wide<T>* weight, Wide<T>* sum) {
  for (int64_t i = 0; i < n; ++i) {
    weight[i] = fast_exp(Wide<T>(logit[i]) - top[i]);
    sum[i] += weight[i];
  }
}

// The last branch's, whose logit is 0.
template <class W>
void exponentiate_last(int64_t n, const W* top, W* weight, W* sum) {
  for (int64_t i = 0; i < n; ++i) {
    weight[i] = fast_exp(-top[i]);
    sum[i] += weight[i];
  }
}

// weight /= sum; y += weight * x
template <class T>
void normalize_and_add(int64_t n, const Wide<T>* sum, const T* x, Wide<T>* weight, Wide<T>* y) {
  for (int64_t i = 0; i < n; ++i) {
    weight[i] /= sum[i];
    y[i] += weight[i] * Wide<T>(x[i]);
  }
}

template <class T>
void round_to(int64_t n, const Wide<T>* from, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(to + i, from[i]);
}

template <class T>
void scale(int64_t n, const Wide<T>* weight, const T* dy, T* dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(dx + i, weight[i] * Wide<T>(dy[i]));
}

template <class T>
void logit_gradient(int64_t n, const Wide<T>* weight, const Wide<T>* y, const T* x, const T* dy, T* dlogit) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(dlogit + i, weight[i] * Wide<T>(dy[i]) * (Wide<T>(x[i]) - y[i]));
}

template <class T>
std::vector<Rows<T>> all_rows(const Tensors& tensors) {
  std::vector<Rows<T>> rows;
  for (const Tensor& tensor : tensors) rows.push_back(rows_of<T>(tensor));
  return rows;
}

// The weights of all branches, and the sum, for up to kBlock channels of a row.
template <class T>
class Mixture {
 public:
  using W = Wide<T>;

  explicit Mixture(size_t branches) : weights_(branches * kBlock) {}

  void mix(int64_t n, int64_t row, int64_t begin, const Rows<T>& logits, const std::vector<Rows<T>>& x) {
    std::array<W, kBlock> top{}, sum{};  // the last branch's logit is 0
    const size_t last = x.size() - 1;
    const auto logit = [&](size_t k) { return logits[row] + static_cast<int64_t>(k) * x[0].width + begin; };
    for (size_t k = 0; k < last; ++k) vectorized<raise<T>>(n, logit(k), top.data());
    for (size_t k = 0; k < last; ++k) vectorized<exponentiate<T>>(n, logit(k), top.data(), weight(k), sum.data());
    vectorized<exponentiate_last<W>>(n, top.data(), weight(last), sum.data());
    y.fill(0);
    for (size_t k = 0; k <= last; ++k) vectorized<normalize_and_add<T>>(n, sum.data(), x[k][row] + begin, weight(k), y.data());
  }
  W* weight(size_t k) { return weights_.data() + k * kBlock; }

  std::array<W, kBlock> y;

 private:
  std::vector<W> weights_;
};

// Calls body(mixture, row, first channel, channels) for each block of channels.
template <class T, class Body>
void for_each_block(const Rows<T>& logits, const std::vector<Rows<T>>& x, const Body& body) {
  parallel_ranges(x[0].count, std::max<int64_t>(1, kGrain / x[0].width), [&](int64_t begin, int64_t end) {
    Mixture<T> mixture(x.size());
    for (int64_t row = begin; row < end; ++row)
      for (int64_t at = 0; at < x[0].width; at += kBlock) {
        const int64_t n = std::min(kBlock, x[0].width - at);
        mixture.mix(n, row, at, logits, x);
        body(mixture, row, at, n);
      }
  });
}

template <class T>
void run(const GatedSumForward& args) {
  const Rows<T> y = rows_of<T>(args.y);
  for_each_block(rows_of<T>(args.logits), all_rows<T>(args.x), [&](Mixture<T>& mixture, int64_t row, int64_t at, int64_t n) {
    vectorized<round_to<T>>(n, mixture.y.data(), y[row] + at);
  });
}

template <class T>
void run(const GatedSumBackward& args) {
  const Rows<T> dlogits = rows_of<T>(args.dlogits), dy = rows_of<T>(args.dy);
  const auto x = all_rows<T>(args.x), dx = all_rows<T>(args.dx);
  for_each_block(rows_of<T>(args.logits), x, [&](Mixture<T>& mixture, int64_t row, int64_t at, int64_t n) {
    for (size_t k = 0; k < x.size(); ++k) {
      vectorized<scale<T>>(n, mixture.weight(k), dy[row] + at, dx[k][row] + at);
      if (k + 1 == x.size()) continue;
      vectorized<logit_gradient<T>>(n, mixture.weight(k), mixture.y.data(), x[k][row] + at, dy[row] + at,
                                    dlogits[row] + static_cast<int64_t>(k) * x[0].width + at);
    }
  });
}

template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  if (like.numel() == 0) return;
  dispatch_float(like.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace

void launch(Cpu, const GatedSumForward& args) { dispatch(args.y, args); }
void launch(Cpu, const GatedSumBackward& args) { dispatch(args.dy, args); }

}  // namespace ropewalk
