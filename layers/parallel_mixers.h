// Several mixers side by side on one normed input; their branches are combined by a weighted sum.
#pragma once

#include "layers/options.h"
#include "layers/sub_layer.h"

namespace ropewalk {

class ParallelMixers : public SubLayer {
 public:
  ParallelMixers(Combine combine, std::vector<std::unique_ptr<SubLayer>> branches) : combine_(combine), branches_(std::move(branches)) {}

  const char* kind() const override { return "parallel"; }
  void declare(Declarations& declarations, const std::string& name) override;
  Var forward(const Var& u_BSD, Carry& carry, const Context& ctx) const override;
  Ports ports() const override;
  std::optional<Cost> cost(const TokenShape& shape) const override;
  std::vector<State> make_states(int64_t batch, int64_t capacity, DType dtype) const override;

 private:
  Combine combine_;
  std::vector<std::unique_ptr<SubLayer>> branches_;
};

}  // namespace ropewalk
