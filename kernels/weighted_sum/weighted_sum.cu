#include <algorithm>

#include "kernels/cuda/rows.cuh"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr int kMostTerms = 4;  // of a launch

struct Term {
  const void* data;
  int64_t stride;
  float weight;
  bool narrow;  // bf16, else fp32
};
struct Terms {
  Term of[kMostTerms];
  int count;
};

// Neighbouring elements of a term, as they lie in memory: one of the two.
template <int n>
struct Loaded {
  Pack<float, n> wide;
  Pack<bfloat16, n> narrow;
};

// Packs of eight are all bf16.
template <int n>
__device__ bool is_narrow(const Term& term) {
  return n == kPackWidth<bfloat16> || term.narrow;
}

template <int n>
__device__ Loaded<n> load(const Term& term, int64_t row, int64_t column) {
  const int64_t at = row * term.stride + column;
  Loaded<n> in{};
  if (is_narrow<n>(term))
    in.narrow = load_pack<n>(static_cast<const bfloat16*>(term.data) + at);
  else
    in.wide = load_pack<n>(static_cast<const float*>(term.data) + at);
  return in;
}

template <int n, class To>
__global__ void add_terms(Rows<To> y, Terms terms) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    Loaded<n> in[kMostTerms] = {};
    for (int k = 0; k < kMostTerms; ++k)
      if (k < terms.count) in[k] = load<n>(terms.of[k], row, column);
    Pack<float, n> sum{};
    for (int k = 0; k < kMostTerms; ++k) {
      if (k >= terms.count) continue;
      const Term& term = terms.of[k];
      for (int i = 0; i < n; ++i) sum.v[i] += term.weight * (is_narrow<n>(term) ? float(in[k].narrow.v[i]) : in[k].wide.v[i]);
    }
    Pack<To, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<To>(sum.v[i]);
    store_pack(y[row] + column, out);
  });
}

template <int n, class To>
bool packs(const Rows<To>& y, const Terms& terms) {
  return cuda::packs(y, n) && std::all_of(terms.of, terms.of + terms.count, [](const Term& term) {
           return term.narrow ? cuda::packs(static_cast<const bfloat16*>(term.data), term.stride, n)
                              : cuda::packs(static_cast<const float*>(term.data), term.stride, n);
         });
}

template <class To>
void weighted_sum(const Tensor& sum, const Tensors& x, const std::vector<double>& weights) {
  const bool one_row = std::all_of(x.begin(), x.end(), [](const Tensor& term) { return term.contiguous(); });
  const Rows<To> y = one_row ? Rows<To>{sum.data<To>(), 1, sum.numel(), sum.numel()} : rows_of<To>(sum);
  Tensors kept;  // until the launch
  Terms terms{.of = {}, .count = static_cast<int>(x.size())};
  bool all_narrow = true;
  for (size_t i = 0; i < x.size(); ++i) {
    const Tensor& term = kept.emplace_back(one_row || is_rows(x[i]) ? x[i] : x[i].contiguous_copy());
    dispatch_narrow(term.dtype(), [&]<class T>(std::type_identity<T>) {
      constexpr bool kNarrow = std::is_same_v<T, bfloat16>;
      terms.of[i] = {.data = term.data<T>(),
                     .stride = one_row ? 0 : row_stride(term, "weighted_sum: x"),
                     .weight = static_cast<float>(weights[i]),
                     .narrow = kNarrow};
      all_narrow = all_narrow && kNarrow;
    });
  }
  const auto with = [&]<int n>() { run(add_terms<n, To>, grid_for(sum.numel() / n), y, terms); };
  if constexpr (std::is_same_v<To, bfloat16>)
    if (all_narrow && packs<8>(y, terms)) return with.template operator()<8>();
  packs<4>(y, terms) ? with.template operator()<4>() : with.template operator()<1>();
}

}  // namespace

void launch(Cuda, const WeightedSum& args) {
  if (args.y.numel() == 0) return;
  Tensors x = args.x;
  std::vector<double> weights = args.weights;
  while (x.size() > kMostTerms) {  // the first few become one
    const Tensor sum = Tensor::empty(args.y.shape(), DType::kFloat32, Cuda{});
    weighted_sum<float>(sum, Tensors(x.begin(), x.begin() + kMostTerms), weights);
    x.erase(x.begin(), x.begin() + kMostTerms - 1);
    weights.erase(weights.begin(), weights.begin() + kMostTerms - 1);
    x.front() = sum;
    weights.front() = 1;
  }
  dispatch_narrow(args.y.dtype(), [&]<class To>(std::type_identity<To>) { weighted_sum<To>(args.y, x, weights); });
}

}  // namespace ropewalk
