#include "parallel/expert_parallel.h"

#include <numeric>

namespace ropewalk {
namespace {

// How many rows each expert gets from each rank, [ranks][experts].
std::vector<std::vector<int64_t>> gather_counts(const ExpertPlan& plan, const Group& group, const Context& ctx) {
  const int64_t experts = plan.experts();
  const Tensor own = Tensor::empty({1, experts}, DType::kInt64);
  for (int64_t e = 0; e < experts; ++e) own.data<int64_t>()[e] = plan.begin[e + 1] - plan.begin[e];
  const auto all = ctx.receive([&] { return Tensors{group.all_gather(own, 0, "route_experts")}; }).front().to_vector<int64_t>();
  std::vector<std::vector<int64_t>> counts;
  for (auto row = all.begin(); row != all.end(); row += experts) counts.emplace_back(row, row + experts);
  return counts;
}

int64_t sum(const std::vector<int64_t>& counts, int64_t begin, int64_t end) {
  return std::accumulate(counts.begin() + begin, counts.begin() + end, int64_t{0});
}

Tensor to_experts(const Tensor& rows, const ExpertRoute& route, const char* label) {
  const Tensor arrived = route.group.all_to_all(rows, route.sent, route.received, label), laid = empty_like(arrived);
  laid.pend([arrived, blocks = route.blocks](const Tensor& to) {
    for (const ExpertRoute::Block& block : blocks)
      to.narrow(0, block.laid, block.length).copy_from(arrived.narrow(0, block.arrived, block.length));
  });
  return laid;
}

Tensor from_experts(const Tensor& rows, const ExpertRoute& route, const char* label) {
  const Tensor leaving = empty_like(rows);
  for (const ExpertRoute::Block& block : route.blocks)
    leaving.narrow(0, block.arrived, block.length).copy_from(rows.narrow(0, block.laid, block.length));
  return route.group.all_to_all(leaving, route.received, route.sent, label);
}

}  // namespace

ExpertRoute route_experts(const std::shared_ptr<const ExpertPlan>& plan, const Group& group, const Context& ctx) {
  if (group.size() == 1) return {.here = plan};
  const auto counts = gather_counts(*plan, group, ctx);
  const int64_t ranks = group.size(), held = plan->experts() / ranks, first = group.rank() * held;
  ExpertRoute route{.group = group, .here = nullptr};
  std::vector<int64_t> arrived = {0};  // where each rank's rows begin
  for (int64_t rank = 0; rank < ranks; ++rank) {
    route.sent.push_back(sum(counts[group.rank()], rank * held, (rank + 1) * held));
    route.received.push_back(sum(counts[rank], first, first + held));
    arrived.push_back(arrived.back() + route.received.back());
  }
  auto here = std::make_shared<ExpertPlan>();
  here->begin = {0};
  for (int64_t e = first; e < first + held; ++e) {
    int64_t laid = here->begin.back();
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t length = counts[rank][e];
      route.blocks.push_back({.arrived = arrived[rank], .laid = laid, .length = length});
      arrived[rank] += length;
      laid += length;
    }
    here->begin.push_back(laid);
  }
  route.here = here;
  return route;
}

Var ep_dispatch(const Var& rows, const ExpertRoute& route, const Context& ctx) {
  if (route.group.size() == 1) return rows;
  const Tensors came = ctx.receive([&] { return Tensors{to_experts(rows.data(), route, "ep_dispatch")}; });
  return record("ep_dispatch", {rows}, came.front(),
                [route](Backprop& b) { b.give(0, from_experts(b.dy(0), route, "ep_dispatch.backward")); });
}

Var ep_return(const Var& rows, const ExpertRoute& route, const Context& ctx) {
  if (route.group.size() == 1) return rows;
  const Tensors came = ctx.receive([&] { return Tensors{from_experts(rows.data(), route, "ep_return")}; });
  return record("ep_return", {rows}, came.front(), [route](Backprop& b) { b.give(0, to_experts(b.dy(0), route, "ep_return.backward")); });
}

}  // namespace ropewalk
