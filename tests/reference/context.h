// What enters the pieces of whole rows: definitions by token, for any number of ranks.
#pragma once

#include <vector>

#include "kernels/tensor/tensor.h"

namespace ropewalk::reference {

using Begins = std::vector<std::vector<int64_t>>;  // of each row: where documents begin

inline int64_t begin_of_document(const std::vector<int64_t>& begins, int64_t token) {
  int64_t begin = 0;
  for (const int64_t b : begins)
    if (b <= token) begin = b;
  return begin;
}

// x [B, T, C] -> [B, T / piece, width, C]: the tokens before each piece that belong to the document it starts in, else zero.
// With `d_halo`, instead d(x): every token collects what its copies got.
inline Tensor halo(const Tensor& x, const Begins& begins, int64_t piece, int64_t width, const Tensor& d_halo = {}) {
  const int64_t rows = x.dim(0), tokens = x.dim(1), channels = x.dim(2);
  const Tensor result = d_halo ? zeros_like(x) : Tensor::zeros({rows, tokens / piece, width, channels}, x.dtype());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t g = 0; g < tokens / piece; ++g)
      for (int64_t k = 1; k <= width; ++k) {
        const int64_t token = g * piece - k;
        if (token < begin_of_document(begins[row], g * piece)) continue;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at_x = (row * tokens + token) * channels + c;
          const int64_t at_halo = ((row * (tokens / piece) + g) * width + width - k) * channels + c;
          if (d_halo)
            result.data<double>()[at_x] += d_halo.data<double>()[at_halo];
          else
            result.data<double>()[at_halo] = x.data<double>()[at_x];
        }
      }
  return result;
}

// decay [B, T, H], local [B, T, H, N]: h = 0 where a document begins, entering[t] = h, h <- decay[t] h + local[t].
struct StateScan {
  Tensor entering, d_decay, d_local;  // the gradients for a given d(entering)
};
inline StateScan state_scan(const Tensor& decay, const Tensor& local, const Begins& begins, const Tensor& d_entering) {
  const int64_t rows = local.dim(0), tokens = local.dim(1), heads = local.dim(2), n = local.dim(3);
  const StateScan out{zeros_like(local), zeros_like(decay), zeros_like(local)};
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < n; ++i) {
        const auto at_head = [&](int64_t t) { return (row * tokens + t) * heads + head; };
        const auto at = [&](int64_t t) { return at_head(t) * n + i; };
        double h = 0, adjoint = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          if (begin_of_document(begins[row], t) == t) h = 0;
          out.entering.data<double>()[at(t)] = h;
          h = decay.data<double>()[at_head(t)] * h + local.data<double>()[at(t)];
        }
        for (int64_t t = tokens - 1; t >= 0; --t) {
          out.d_local.data<double>()[at(t)] = adjoint;
          out.d_decay.data<double>()[at_head(t)] += adjoint * out.entering.data<double>()[at(t)];
          adjoint = decay.data<double>()[at_head(t)] * adjoint + d_entering.data<double>()[at(t)];
          if (begin_of_document(begins[row], t) == t) adjoint = 0;
        }
      }
  return out;
}

}  // namespace ropewalk::reference
