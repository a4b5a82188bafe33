// The moves of expert parallelism: ranks share the experts of a layer out among them, and each token's row goes to the rank that holds the
// expert chosen for it, and back. Dropless: as many rows as there are, uneven counts and all.
#pragma once

#include "kernels/experts/experts.h"
#include "parallel/context.h"

namespace ropewalk {

struct ExpertParallel {
  Group group{};            // rank r holds experts [r, r + 1) E / ranks
  bool cut_hidden = false;  // tensor ranks cut the experts' hidden layers; else each has them whole
};

// Which rows of this rank go where, and what comes here.
struct ExpertRoute {
  Group group{};
  std::vector<int64_t> sent{}, received{};  // rows, by rank
  std::shared_ptr<const ExpertPlan> here;   // of the rows that come: `begin` by the experts of this rank
  // Rows come rank by rank, each rank's by expert, and are then laid expert by expert, each expert's by rank.
  struct Block {
    int64_t arrived, laid, length;
  };
  std::vector<Block> blocks{};
};
// Collective over the group: ranks tell each other how many rows each expert gets.
ExpertRoute route_experts(const std::shared_ptr<const ExpertPlan>& plan, const Group& group, const Context& ctx);

// rows [A, D] of the plan -> the rows of this rank's experts, in the order of route.here.
Var ep_dispatch(const Var& rows, const ExpertRoute& route, const Context& ctx);
// Its inverse, and its transpose: the rows of this rank's experts -> those of the plan.
Var ep_return(const Var& rows, const ExpertRoute& route, const Context& ctx);

}  // namespace ropewalk
