// The routers of a mixture of experts by their definitions, one token at a time, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace ropewalk::reference {

using Numbers = std::vector<double>;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline Numbers softmax(const Numbers& logits) {
  Numbers p;
  for (const double l : logits) p.push_back(std::exp(l));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

// The indices of the k greatest scores, greatest first, the lower index among equals.
inline std::vector<int64_t> top(const Numbers& scores, int64_t k) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  order.resize(k);
  return order;
}

struct Routed {
  std::vector<int64_t> expert;
  Numbers weight;
};

inline Routed softmax_topk(const Numbers& logits, int64_t k, bool renorm, double scale) {
  const Numbers p = softmax(logits);
  Routed routed{top(p, k), {}};
  double sum = 0;
  for (const int64_t e : routed.expert) sum += p[e];
  for (const int64_t e : routed.expert) routed.weight.push_back(scale * p[e] / (renorm ? sum : 1));
  return routed;
}

inline Routed topk_softmax(const Numbers& logits, int64_t k, double scale) {
  Routed routed{top(logits, k), {}};
  Numbers chosen;
  for (const int64_t e : routed.expert) chosen.push_back(logits[e]);
  for (const double p : softmax(chosen)) routed.weight.push_back(scale * p);
  return routed;
}

inline Routed sigmoid_bias(const Numbers& logits, const Numbers& bias, int64_t k, int64_t groups, int64_t top_groups, double scale) {
  const int64_t experts = static_cast<int64_t>(logits.size()), width = experts / groups;
  Numbers score, group_score;
  for (int64_t e = 0; e < experts; ++e) score.push_back(sigmoid(logits[e]) + bias[e]);
  for (int64_t g = 0; g < groups; ++g) {
    Numbers members(score.begin() + g * width, score.begin() + (g + 1) * width);
    std::sort(members.rbegin(), members.rend());
    group_score.push_back(members[0] + (width > 1 ? members[1] : 0));
  }
  const std::vector<int64_t> kept = top(group_score, top_groups);
  for (int64_t e = 0; e < experts; ++e)
    if (std::find(kept.begin(), kept.end(), e / width) == kept.end()) score[e] = -INFINITY;
  Routed routed{top(score, k), {}};
  double sum = 1e-20;
  for (const int64_t e : routed.expert) sum += sigmoid(logits[e]);
  for (const int64_t e : routed.expert) routed.weight.push_back(scale * sigmoid(logits[e]) / sum);
  return routed;
}

// balance E sum_e f_e P_e + z mean_t logsumexp^2 for one sequence; expert: of all its tokens' slots.
inline double router_loss(const std::vector<Numbers>& logits, const std::vector<int64_t>& expert, bool sigmoids, double balance, double z) {
  const size_t experts = logits[0].size();
  Numbers f(experts), share(experts);
  for (const int64_t e : expert) f[e] += 1 / static_cast<double>(expert.size());
  double squares = 0;
  for (const Numbers& l : logits) {
    Numbers q;
    for (const double x : l) q.push_back(sigmoids ? sigmoid(x) : std::exp(x));
    const double sum = std::accumulate(q.begin(), q.end(), 0.0);
    for (size_t e = 0; e < experts; ++e) share[e] += q[e] / sum / static_cast<double>(logits.size());
    double exps = 0;
    for (const double x : l) exps += std::exp(x);
    squares += std::log(exps) * std::log(exps) / static_cast<double>(logits.size());
  }
  double loss = z * squares;
  for (size_t e = 0; e < experts; ++e) loss += balance * static_cast<double>(experts) * f[e] * share[e];
  return loss;
}

// The expert of each token of one sequence.
inline std::vector<int64_t> sinkhorn(const std::vector<Numbers>& logits, int64_t iterations) {
  const size_t tokens = logits.size(), experts = logits[0].size();
  std::vector<Numbers> cost(tokens, Numbers(experts));
  for (size_t t = 0; t < tokens; ++t)
    for (size_t e = 0; e < experts; ++e) cost[t][e] = std::exp(2 * (logits[t][e] - *std::max_element(logits[t].begin(), logits[t].end())));
  Numbers d0(tokens, 1), d1(experts, 1);
  for (int64_t i = 0; i < iterations; ++i) {
    for (size_t t = 0; t < tokens; ++t) {
      double sum = 1e-8;
      for (size_t e = 0; e < experts; ++e) sum += cost[t][e] * d1[e];
      d0[t] = 1 / static_cast<double>(tokens) / sum;
    }
    for (size_t e = 0; e < experts; ++e) {
      double sum = 1e-8;
      for (size_t t = 0; t < tokens; ++t) sum += cost[t][e] * d0[t];
      d1[e] = 1 / static_cast<double>(experts) / sum;
    }
  }
  std::vector<int64_t> expert;
  for (size_t t = 0; t < tokens; ++t) {
    Numbers score(experts);
    for (size_t e = 0; e < experts; ++e) score[e] = d0[t] * cost[t][e] * d1[e];
    expert.push_back(top(score, 1)[0]);
  }
  return expert;
}

}  // namespace ropewalk::reference
