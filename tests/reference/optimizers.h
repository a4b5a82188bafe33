// AdamW and SGD as in the papers, one element at a time, in double.
#pragma once

#include <cmath>

namespace ropewalk::reference {

struct AdamW {
  double lr, beta1, beta2, eps, weight_decay;
  double m = 0, v = 0;
  int t = 0;

  double step(double weight, double gradient) {
    ++t;
    m = beta1 * m + (1 - beta1) * gradient;
    v = beta2 * v + (1 - beta2) * gradient * gradient;
    const double m_hat = m / (1 - std::pow(beta1, t)), v_hat = v / (1 - std::pow(beta2, t));
    return weight - lr * (m_hat / (std::sqrt(v_hat) + eps) + weight_decay * weight);
  }
};

inline double sgd(double weight, double gradient, double lr, double weight_decay) {
  return weight - lr * gradient - lr * weight_decay * weight;
}

}  // namespace ropewalk::reference
