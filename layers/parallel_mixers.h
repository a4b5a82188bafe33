// Several mixers side by side on one normed input u: branch i is f_i(in_scale_i * u). How they are combined: Combine in layers/options.h.
// What a combination learns is replicated over tensor ranks, and works on the tokens that a rank has outside of tp_enter and tp_leave.
#pragma once

#include "layers/norm.h"
#include "layers/options.h"
#include "layers/sub_layer.h"

namespace ropewalk {

class ParallelMixers : public SubLayer {
 public:
  ParallelMixers(const ParallelOptions& options, const BuildContext& build, std::vector<std::unique_ptr<SubLayer>> branches);

  const char* kind() const override { return "parallel"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Ports ports() const override;
  Cost cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  Var combine(const Var& u_BSD, const Vars& y_BSD) const;
  Var mean_of_normed(const Vars& y_BSD) const;

  ParallelOptions options_;
  BuildContext build_;
  std::vector<std::unique_ptr<SubLayer>> branches_;
  std::vector<Norm> norms_;  // normed_mean: one a branch
  Var gate_, gate_bias_;     // gated: [(n - 1) D, input]
  Var concat_proj_;          // concat_proj: [D, n D]
};

}  // namespace ropewalk
