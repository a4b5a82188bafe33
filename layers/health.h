// How state-space layers are, at the steps where someone asks: what goes wrong there shows in few numbers. By kind of layer, over all
// layers of the kind, from a sample of the tokens.
#pragma once

#include <array>
#include <limits>
#include <string>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct SsmHealth {
  double dt_min = std::numeric_limits<double>::infinity(), dt_max = 0;        // step sizes, after softplus
  double decay_min = std::numeric_limits<double>::infinity(), decay_max = 0;  // exp(-dt exp(A_log)): 0 forgets at once, 1 never
  double state_squares = 0, state_count = 0;                                  // of the scan's states
};

class Health {
 public:
  static constexpr std::array kKinds = {"mamba1", "mamba2"};

  SsmHealth& of(const std::string& kind);
  const std::array<SsmHealth, kKinds.size()>& all() const { return all_; }

 private:
  std::array<SsmHealth, kKinds.size()> all_;
};

// One layer's: dt [.., H] before bias and softplus; dt_bias [H]; a_log [H], or [H, N] with a rate for each state; its states, empty where
// there are none.
void observe_scan(SsmHealth& health, const Tensor& dt, const Tensor& dt_bias, const Tensor& a_log, const Tensor& states);

}  // namespace ropewalk
