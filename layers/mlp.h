// The feed-forward: gated, down(act(gate(u)) * up(u)) (SwiGLU and its kin, Shazeer 2020), or plain, down(act(up(u))).
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"
#include "parallel/tensor_parallel.h"

namespace ropewalk {

class Mlp : public SubLayer {
 public:
  // `owner`: of its parameters, where it is a part of another sub-layer.
  Mlp(const MlpOptions& options, const BuildContext& build, const TensorParallel& tp, Kind owner = Kind::kMlp)
      : options_(options), build_(build), tp_(tp), owner_(owner) {}

  const char* kind() const override { return "mlp"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Cost cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t, int64_t, DType) const override { return {}; }

 private:
  Var activated(const Var& up_BSF) const;

  MlpOptions options_;
  BuildContext build_;
  TensorParallel tp_;
  Kind owner_;
  Var up_, up_bias_, down_, down_bias_;  // `up` with the gate above it where there is one
};

}  // namespace ropewalk
