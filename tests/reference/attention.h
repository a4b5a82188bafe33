// Causal softmax attention by its definition: every token knows its document and its position there, and looks at every key.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace ropewalk::reference {

struct AttentionToken {
  int64_t document = -1;  // of the whole batch; -1: none, sees nothing and is seen by nobody
  int64_t position = 0;
};
// One entry for each token of [rows, tokens], row by row.
using AttentionTokens = std::vector<AttentionToken>;

struct Attention {
  Tensor q, k, v;  // fp64: [B, S, H, P]; [B', T, K, P]
  AttentionTokens queries, keys;
  double scale = 1;
  std::optional<int64_t> window;

  double at(const Tensor& x, int64_t token, int64_t head, int64_t p) const {
    return x.data<double>()[token / x.dim(1) * x.stride(0) + token % x.dim(1) * x.stride(1) + head * x.stride(2) + p];
  }
  int64_t key_head(int64_t head) const { return head / (q.dim(2) / k.dim(2)); }

  bool sees(int64_t query, int64_t key) const {
    const AttentionToken &a = queries[static_cast<size_t>(query)], &b = keys[static_cast<size_t>(key)];
    const int64_t distance = a.position - b.position;
    return a.document >= 0 && a.document == b.document && distance >= 0 && (!window || distance < *window);
  }

  // Softmax over all keys for one query and head; 0 for the keys that it does not see.
  std::vector<double> probabilities(int64_t query, int64_t head) const {
    std::vector<double> p(keys.size(), 0.0);
    double sum = 0;
    for (size_t s = 0; s < keys.size(); ++s) {
      if (!sees(query, static_cast<int64_t>(s))) continue;
      double score = 0;
      for (int64_t i = 0; i < q.dim(3); ++i) score += at(q, query, head, i) * at(k, static_cast<int64_t>(s), key_head(head), i);
      sum += p[s] = std::exp(scale * score);
    }
    for (double& x : p) x = sum == 0 ? 0 : x / sum;
    return p;
  }

  template <class Body>  // body(query, head, element of a dense tensor like q where that row begins)
  void for_each_row(const Body& body) const {
    for (int64_t t = 0; t < static_cast<int64_t>(queries.size()); ++t)
      for (int64_t h = 0; h < q.dim(2); ++h) body(t, h, (t * q.dim(2) + h) * q.dim(3));
  }

  Tensor y() const {
    const Tensor result = zeros_like(q);
    for_each_row([&](int64_t t, int64_t h, int64_t begin) {
      const auto p = probabilities(t, h);
      for (size_t s = 0; s < p.size(); ++s)
        for (int64_t i = 0; i < q.dim(3); ++i) result.data<double>()[begin + i] += p[s] * at(v, static_cast<int64_t>(s), key_head(h), i);
    });
    return result;
  }

  // dq, dk, dv, by the derivative of the softmax: d(p_s)/d(score_r) = p_s * ([s = r] - p_r).
  Tensors gradients(const Tensor& dy) const {
    const Tensor dq = zeros_like(q), dk = zeros_like(k), dv = zeros_like(v);
    for_each_row([&](int64_t t, int64_t h, int64_t begin) {
      const auto p = probabilities(t, h);
      std::vector<double> dp(p.size(), 0.0);
      double mean = 0;
      for (size_t s = 0; s < p.size(); ++s) {
        for (int64_t i = 0; i < q.dim(3); ++i) dp[s] += at(dy, t, h, i) * at(v, static_cast<int64_t>(s), key_head(h), i);
        mean += p[s] * dp[s];
      }
      for (size_t s = 0; s < p.size(); ++s) {
        const double dscore = scale * p[s] * (dp[s] - mean);
        const int64_t key = (static_cast<int64_t>(s) * k.dim(2) + key_head(h)) * k.dim(3);
        for (int64_t i = 0; i < q.dim(3); ++i) {
          dq.data<double>()[begin + i] += dscore * at(k, static_cast<int64_t>(s), key_head(h), i);
          dk.data<double>()[key + i] += dscore * at(q, t, h, i);
          dv.data<double>()[key + i] += p[s] * at(dy, t, h, i);
        }
      }
    });
    return {dq, dk, dv};
  }
};

}  // namespace ropewalk::reference
