#include "layers/health.h"

#include <algorithm>
#include <cmath>

#include "kernels/flat/flat.h"

namespace ropewalk {
namespace {
double softplus(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }
}  // namespace

SsmHealth& Health::of(const std::string& kind) {
  const auto found = std::find(kKinds.begin(), kKinds.end(), kind);
  expect(found != kKinds.end(), "health: expected a kind of state-space layer, given {}", kind);
  return all_[static_cast<size_t>(found - kKinds.begin())];
}

void observe_scan(SsmHealth& health, const Tensor& dt, const Tensor& dt_bias, const Tensor& a_log, const Tensor& states) {
  const auto raw = dt.narrow(0, 0, std::min<int64_t>(1, dt.dim(0))).to_vector<double>();  // the first row stands for all
  const auto bias = dt_bias.to_vector<double>(), log_rates = a_log.to_vector<double>();
  const auto rates = std::ssize(log_rates) / std::max<int64_t>(1, std::ssize(bias));  // of a head
  for (size_t i = 0; i < raw.size(); ++i) {
    const size_t head = i % bias.size();
    const double step = softplus(raw[i] + bias[head]);
    const auto rate = std::minmax_element(log_rates.begin() + static_cast<int64_t>(head) * rates,
                                          log_rates.begin() + static_cast<int64_t>(head + 1) * rates);
    health.dt_min = std::min(health.dt_min, step);
    health.dt_max = std::max(health.dt_max, step);
    health.decay_min = std::min(health.decay_min, std::exp(-step * std::exp(*rate.second)));
    health.decay_max = std::max(health.decay_max, std::exp(-step * std::exp(*rate.first)));
  }
  if (!states) return;
  const Tensor dense = states.packed(), squares = Tensor::zeros({1}, DType::kFloat64, dense.device());
  launch(dense.device(), SumOfSquares{.x = dense, .sum = squares});
  health.state_squares += squares.item();
  health.state_count += static_cast<double>(dense.numel());
}

}  // namespace ropewalk
