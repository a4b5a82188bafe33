// A sub-layer by itself, on one rank, in fp64, its parameters drawn at random.
#pragma once

#include <gtest/gtest.h>

#include "layers/sub_layer.h"
#include "tests/support/finite_difference.h"

namespace ropewalk::testing {

class LoneLayer {
 public:
  explicit LoneLayer(std::unique_ptr<SubLayer> layer) : layer_(std::move(layer)) {
    layer_->declare(declarations_, "x");
    for (const auto& fused : declarations_.all()) place(*fused);
  }

  // One row of one document.
  Tensor operator()(const Tensor& u_BSD) const {
    const Microbatch batch{.layout = make_layout({{0}}, u_BSD.dim(1), 0, 1, 1, 0), .tokens_BS = {}, .targets_BS = {}};
    const ContextParallel cp;
    Carry carry;
    return layer_->forward(u_BSD, carry, {.batch = batch, .cp = cp, .dtype = DType::kFloat64, .states = {}}).data();
  }

  bool has(const std::string& name) const { return parts_.contains("x." + name); }
  const Tensor& part(const std::string& name) const { return parts_.at("x." + name); }
  std::vector<double> values(const std::string& name) const { return part(name).to_vector<double>(); }
  const std::map<std::string, Tensor>& parts() const { return parts_; }

 private:
  void place(const FusedParameter& fused) {
    int64_t rows = 0, at = 0;
    for (const ParameterSpec& spec : fused.parts) rows += spec.shape[0];
    fused.leaf->data = random_tensor(fused.parts.front().shape.with(0, rows), 100 + parts_.size());
    for (const ParameterSpec& spec : fused.parts) {
      parts_[spec.name] = fused.leaf->data.narrow(0, at, spec.shape[0]);
      at += spec.shape[0];
    }
  }

  std::unique_ptr<SubLayer> layer_;
  Declarations declarations_{false};
  std::map<std::string, Tensor> parts_;
};

// x [tokens, K] times weight [N, K] transposed, plus bias [N] where it is not empty.
inline std::vector<double> linear_of(const std::vector<double>& x, const std::vector<double>& weight, int64_t inputs,
                                     const std::vector<double>& bias = {}) {
  const auto k = static_cast<size_t>(inputs), n = weight.size() / k;
  std::vector<double> y;
  for (size_t t = 0; t < x.size() / k; ++t)
    for (size_t i = 0; i < n; ++i) {
      y.push_back(bias.empty() ? 0 : bias[i]);
      for (size_t j = 0; j < k; ++j) y.back() += x[t * k + j] * weight[i * k + j];
    }
  return y;
}

}  // namespace ropewalk::testing
