#include "parallel/tensor_parallel.h"

#include <algorithm>
#include <cmath>

namespace ropewalk {
namespace {

constexpr int kSequence = 1;  // the dim of tokens

// The ranks' log-sum-exps and target logits [n], joined.
struct Joined {
  Tensor log_sum_exp, target_logit;
  Tensor share;  // softmax weight of this rank's half: exp(own log-sum-exp - joint one)
};

// by_rank [2 ranks, n]: each rank's log-sum-exps, then its target logits.
template <class W>
void join(const Tensor& by_rank, int64_t rank, const Joined& joined) {
  const int64_t ranks = by_rank.dim(0) / 2, n = by_rank.dim(1);
  const W* const scores = by_rank.data<W>();
  W *log_sum_exp = joined.log_sum_exp.data<W>(), *target_logit = joined.target_logit.data<W>(), *share = joined.share.data<W>();
  for (int64_t i = 0; i < n; ++i) {
    const auto part = [&](int64_t r) { return scores[2 * r * n + i]; };
    W highest = part(0), sum = 0, target = 0;
    for (int64_t r = 1; r < ranks; ++r) highest = std::max(highest, part(r));
    for (int64_t r = 0; r < ranks; ++r) {
      sum += std::exp(part(r) - highest);
      target += scores[(2 * r + 1) * n + i];
    }
    log_sum_exp[i] = highest + std::log(sum);
    target_logit[i] = target;
    share[i] = std::exp(part(rank) - log_sum_exp[i]);
  }
}

template <class Body>
void for_wide(DType dtype, const Body& body) {
  dtype == DType::kFloat64 ? body(std::type_identity<double>{}) : body(std::type_identity<float>{});
}

Tensor product(const Tensor& x, const Tensor& y) {
  const Tensor dense = x.packed(), z = empty_like(x);
  for_wide(x.dtype(), [&]<class W>(std::type_identity<W>) {
    const W *a = dense.data<W>(), *b = y.data<W>();
    std::transform(a, a + x.numel(), b, z.data<W>(), std::multiplies<>());
  });
  return z;
}

}  // namespace

Group TensorParallel::sharing(int ranks) const {
  if (ranks == 1) return Group();
  return ranks == group.size() ? group : neighbours.at(ranks);
}

TensorParallel make_tensor_parallel(const Group& group, bool sequence) {
  TensorParallel tp{.group = group, .sequence = sequence, .neighbours = {}};
  for (int n = 2; n < group.size(); ++n)
    if (group.size() % n == 0) tp.neighbours[n] = group.split(group.rank() / n);
  group.open_relay();
  for (const auto& [_, neighbours] : tp.neighbours) neighbours.open_relay();
  return tp;
}

Var tp_enter(const Var& x_BSD, const TensorParallel& tp) {
  const Group group = tp.group;
  if (group.size() == 1) return x_BSD;
  if (tp.sequence)
    return record("tp_enter", {x_BSD}, group.all_gather(x_BSD.data(), kSequence, "tp_enter"),
                  [group](Backprop& b) { b.give(0, group.reduce_scatter(b.dy(0), kSequence, "tp_enter.backward")); });
  return record("tp_enter", {x_BSD}, x_BSD.data(), [group](Backprop& b) { b.give(0, group.all_reduce(b.dy(0), "tp_enter.backward")); });
}

Var tp_leave(const Var& y_BSD, const TensorParallel& tp) {
  const Group group = tp.group;
  if (group.size() == 1) return y_BSD;
  if (tp.sequence)
    return record("tp_leave", {y_BSD}, group.reduce_scatter(y_BSD.data(), kSequence, "tp_leave"),
                  [group](Backprop& b) { b.give(0, group.all_gather(b.dy(0), kSequence, "tp_leave.backward")); });
  return record("tp_leave", {y_BSD}, group.all_reduce(y_BSD.data(), "tp_leave"), [](Backprop& b) { b.give(0, b.dy(0)); });
}

Var tp_sum_statistic(const Var& s, const Group& group) {
  if (group.size() == 1) return s;
  return record("tp_sum_statistic", {s}, group.all_reduce(s.data(), "tp_sum_statistic"),
                [group](Backprop& b) { b.give(0, group.all_reduce(b.dy(0), "tp_sum_statistic.backward")); });
}

int64_t tp_count_right(const Tensor& best, const Tensor& right, const TensorParallel& tp) {
  const int64_t n = best.numel();
  const auto bests = tp.group.all_gather(best.reshape({1, n}), 0, "tp_count_right").to_vector<double>();
  const auto rights = tp.group.all_gather(right.reshape({1, n}), 0, "tp_count_right").to_vector<double>();
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t winner = i;
    for (int64_t at = i + n; at < std::ssize(bests); at += n)
      if (bests[at] > bests[winner]) winner = at;
    count += rights[winner] == 1;
  }
  return count;
}

HeadScores tp_vocabulary_sum(const HeadScores& scores, const TensorParallel& tp) {
  const Group& group = tp.group;
  if (group.size() == 1) return scores;
  const Tensor &log_sum_exp = scores.log_sum_exp.data(), &target_logit = scores.target_logit.data();
  const Tensor own = Tensor::empty({2, log_sum_exp.numel()}, log_sum_exp.dtype(), log_sum_exp.device());
  own.select(0, 0).reshape(log_sum_exp.shape()).copy_from(log_sum_exp);
  own.select(0, 1).reshape(target_logit.shape()).copy_from(target_logit);
  const Tensor by_rank = group.all_gather(own, 0, "tp_vocabulary_sum");
  const Joined joined{empty_like(log_sum_exp), empty_like(target_logit), empty_like(log_sum_exp)};
  for_wide(own.dtype(), [&]<class W>(std::type_identity<W>) { join<W>(by_rank, group.rank(), joined); });

  const Vars outputs = record("tp_vocabulary_sum", {scores.log_sum_exp, scores.target_logit}, {joined.log_sum_exp, joined.target_logit},
                              [share = joined.share](Backprop& b) {
                                if (b.dy(0)) b.give(0, product(b.dy(0), share));
                                b.give(1, b.dy(1));
                              });
  return {outputs[0], outputs[1]};
}

}  // namespace ropewalk
