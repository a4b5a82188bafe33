// logit[i, v] = <x[i], weight[v]>. Over tokens i with target[i] >= 0:
//   loss = sum of log(sum over v of exp(logit[i, v])) - logit[i, target[i]],   d_logit[i, v] = softmax(logit[i])[v] - [v == target[i]]
#pragma once

#include <cmath>
#include <vector>

namespace ropewalk::reference {

struct CrossEntropy {
  std::vector<double> log_sum_exp, target_logit, dx, dweight;
  double loss = 0;
};

inline CrossEntropy cross_entropy(const std::vector<double>& x, const std::vector<double>& weight, const std::vector<int64_t>& target,
                                  size_t width) {
  CrossEntropy result{std::vector<double>(target.size()), std::vector<double>(target.size()), std::vector<double>(x.size()),
                      std::vector<double>(weight.size())};
  const size_t vocabulary = weight.size() / width;
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] < 0) continue;
    std::vector<double> logit(vocabulary);
    double sum = 0;
    for (size_t v = 0; v < vocabulary; ++v) {
      for (size_t d = 0; d < width; ++d) logit[v] += x[i * width + d] * weight[v * width + d];
      sum += std::exp(logit[v]);
    }
    result.log_sum_exp[i] = std::log(sum);
    result.target_logit[i] = logit[static_cast<size_t>(target[i])];
    result.loss += result.log_sum_exp[i] - result.target_logit[i];
    for (size_t v = 0; v < vocabulary; ++v) {
      const double d_logit = std::exp(logit[v]) / sum - (v == static_cast<size_t>(target[i]));
      for (size_t d = 0; d < width; ++d) {
        result.dx[i * width + d] += d_logit * weight[v * width + d];
        result.dweight[v * width + d] += d_logit * x[i * width + d];
      }
    }
  }
  return result;
}

}  // namespace ropewalk::reference
