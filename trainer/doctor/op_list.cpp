#include "trainer/doctor/op_list.h"

#include <cmath>

#include "kernels/activation/activation.h"
#include "kernels/attention/attention.h"
#include "kernels/causal_conv1d/causal_conv1d.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/linear/linear.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/router/router.h"
#include "kernels/router_logits/router_logits.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/ssd/ssd.h"
#include "kernels/tensor/philox.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {
namespace {

Tensor integers(const Shape& shape, uint64_t seed, int64_t below) {
  const Philox random(seed, "doctor");
  std::vector<int64_t> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(random.uniform(i) * static_cast<double>(below));
  return Tensor::from(shape, values);
}

// What operands are made of.
struct Draw {
  DType dtype;

  Operand activation(const Shape& shape, uint64_t seed) const { return {uniform(shape, seed, dtype), Operand::kActivation}; }
  Operand weight(const Shape& shape, uint64_t seed, double scale) const {
    return {uniform(shape, seed, dtype, -scale, scale), Operand::kParameter};
  }
  Operand wide_weight(const Shape& shape, uint64_t seed, double low = 0.5, double high = 1.5) const {
    return {uniform(shape, seed, DType::kFloat32, low, high), Operand::kParameter};
  }
};

class OpList {
 public:
  OpList(const CheckSize& size, DType dtype) : tokens_(size.tokens), width_(size.width), draw_{dtype}, runs_(documents()) {}

  std::vector<OpCheck> all() {
    products();
    norms();
    elementwise();
    sequence();
    mixers();
    ends();
    return std::move(checks_);
  }

 private:
  void add(const std::string& name, const std::string& size, std::function<std::vector<Operand>()> operands,
           std::function<Vars(const Vars&)> op) {
    checks_.push_back({.name = name, .size = size, .operands = std::move(operands), .op = std::move(op)});
  }

  // Two documents, the first a third of the row.
  Runs documents() const {
    const int64_t first = tokens_ / 3;
    return {{.row = 0, .begin = 0, .length = first, .position = 0, .document = 0, .enters = -1, .closes = true},
            {.row = 0, .begin = first, .length = tokens_ - first, .position = 0, .document = 1, .enters = -1, .closes = true}};
  }

  void products() {
    const int64_t n = tokens_, d = width_;
    add(
        "linear", fmt::format("{} x {} by {}", n, d, 4 * d),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.weight({4 * d, d}, 2, 1 / std::sqrt(d))};
        },
        [](const Vars& in) { return Vars{linear(in[0], in[1])}; });
    constexpr int64_t kExperts = 64;
    add(
        "router_logits", fmt::format("{} x {}, {} experts", n, d, kExperts),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1),
                                      draw.wide_weight({kExperts, d}, 2, -1 / std::sqrt(d), 1 / std::sqrt(d))};
        },
        [](const Vars& in) { return Vars{router_logits(in[0], in[1], Var())}; });
    add(
        "route", fmt::format("{} tokens, 8 of {}", n, kExperts),
        [=] {
          return std::vector<Operand>{{uniform({1, n, kExperts}, 1, DType::kFloat32, -4, 4), Operand::kActivation}};
        },
        [](const Vars& in) { return Vars{route(in[0], {.type = RouterType::kSoftmaxTopk, .top_k = 8, .renorm = true}, {}, {}).weight}; });
  }

  void norms() {
    const int64_t n = tokens_, d = width_;
    const std::string size = fmt::format("{} x {}", n, d);
    add(
        "rms_norm", size,
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.wide_weight({d}, 2)};
        },
        [](const Vars& in) { return Vars{rms_norm(in[0], in[1], 1e-5, in[0].dtype())}; });
    add(
        "layer_norm", size,
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.wide_weight({d}, 2), draw.wide_weight({d}, 3, -1, 1)};
        },
        [](const Vars& in) { return Vars{layer_norm(in[0], in[1], in[2], 1e-5, in[0].dtype())}; });
    add(
        "gated_norm", size + ", 8 groups",
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.activation({1, n, d}, 2), draw.wide_weight({d}, 3)};
        },
        [](const Vars& in) { return Vars{gated_norm(in[0], in[1], in[2], 8, 1e-5)}; });
  }

  void elementwise() {
    const int64_t n = tokens_, d = width_;
    add(
        "swiglu", fmt::format("{} x {}", n, 4 * d),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, 4 * d}, 1), draw.activation({1, n, 4 * d}, 2)};
        },
        [](const Vars& in) { return Vars{gated_activation(in[0], in[1], Activation::kSilu)}; });
    add(
        "relu2", fmt::format("{} x {}", n, 4 * d),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, 4 * d}, 1)};
        },
        [](const Vars& in) { return Vars{ropewalk::activation(in[0], Activation::kRelu2)}; });
    add(
        "weighted_sum", fmt::format("{} x {}", n, d),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.activation({1, n, d}, 2)};
        },
        [](const Vars& in) {
          return Vars{weighted_sum(in, {1, 0.5})};
        });
  }

  void sequence() {
    const int64_t n = tokens_, d = width_, heads = std::max<int64_t>(1, d / 128);
    add(
        "causal_conv1d", fmt::format("{} x {}, width 4", n, d),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1), draw.weight({d, 4}, 2, 0.5), draw.weight({d}, 3, 0.5)};
        },
        [runs = runs_](const Vars& in) { return Vars{causal_conv1d_silu(in[0], in[1], in[2], Var(), runs)}; });
    add(
        "rope", fmt::format("{} x {} x 128", n, heads),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, heads, 128}, 1)};
        },
        [n](const Vars& in) {
          std::vector<int64_t> position(static_cast<size_t>(n));
          for (size_t t = 0; t < position.size(); ++t) position[t] = static_cast<int64_t>(t);
          return Vars{rope(in[0], Tensor::from({1, n}, position).to(in[0].data().device()), {})};
        });
  }

  void mixers() {
    const int64_t n = tokens_, d = width_, heads = std::max<int64_t>(1, d / 128), shared = std::max<int64_t>(1, heads / 4);
    const Spans spans = {{.row = 0, .begin = 0, .length = n, .position = 0, .keys = {{.row = 0, .begin = 0, .length = n, .position = 0}}}};
    add(
        "attention", fmt::format("{} x {} heads of 128, {} of keys", n, heads, shared),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, heads, 128}, 1), draw.activation({1, n, shared, 128}, 2),
                                      draw.activation({1, n, shared, 128}, 3)};
        },
        [spans](const Vars& in) { return Vars{attention(in[0], in[1], in[2], spans, {.scale = 1 / std::sqrt(128.0), .window = {}})}; });
    const int64_t channels = 2 * d, ssd_heads = channels / 64;
    constexpr int64_t kState = 128, kScanState = 16;
    const auto ssd_inputs = [runs = runs_](const Vars& in) {
      return SsdInputs{.v = in[0], .dt = in[1], .b = in[2], .c = in[3], .a_log = in[4], .dt_bias = in[5], .d_skip = in[6], .runs = runs};
    };
    const auto ssd_operands = [=, draw = draw_] {
      return std::vector<Operand>{draw.activation({1, n, ssd_heads, 64}, 1), draw.activation({1, n, ssd_heads}, 2),
                                  draw.activation({1, n, 1, kState}, 3),     draw.activation({1, n, 1, kState}, 4),
                                  draw.wide_weight({ssd_heads}, 5, 0, 1),    draw.wide_weight({ssd_heads}, 6, -4, -2),
                                  draw.wide_weight({ssd_heads}, 7)};
    };
    const std::string ssd_size = fmt::format("{} x {} heads of 64, state {}", n, ssd_heads, kState);
    add("ssd_chunk_states", ssd_size, ssd_operands, [ssd_inputs, runs = runs_](const Vars& in) {
      SsdInputs inputs = ssd_inputs(in);
      const SsdStates states =
          ssd_chunk_states({inputs.v, inputs.dt, inputs.b, inputs.c, inputs.a_log, inputs.dt_bias, inputs.d_skip, runs});
      return Vars{states.decay, states.local};
    });
    const int64_t chunks = std::ssize(ssd_chunks(runs_, 128));
    add(
        "ssd_chunk_outputs", ssd_size,
        [=, draw = draw_] {
          std::vector<Operand> operands = ssd_operands();
          operands.push_back({uniform({chunks, ssd_heads, 64, kState}, 8, DType::kFloat32), Operand::kActivation});
          return operands;
        },
        [runs = runs_](const Vars& in) {
          return Vars{ssd_chunk_outputs({in[0], in[1], in[2], in[3], in[4], in[5], in[6], runs}, in[7])};
        });
    add(
        "selective_scan", fmt::format("{} x {}, state {}", n, channels, kScanState),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, channels}, 1),      draw.activation({1, n, channels}, 2),
                                      draw.activation({1, n, channels}, 3),      draw.activation({1, n, 1, kScanState}, 4),
                                      draw.activation({1, n, 1, kScanState}, 5), draw.wide_weight({channels, kScanState}, 6, 0, 1),
                                      draw.wide_weight({channels}, 7, -4, -2),   draw.wide_weight({channels}, 8)};
        },
        [runs = runs_](const Vars& in) {
          return Vars{selective_scan({.x = in[0],
                                      .dt = in[1],
                                      .z = in[2],
                                      .b = in[3],
                                      .c = in[4],
                                      .a_log = in[5],
                                      .dt_bias = in[6],
                                      .d_skip = in[7],
                                      .h0 = {},
                                      .runs = runs})
                          .y};
        });
  }

  void ends() {
    const int64_t n = tokens_, d = width_, vocabulary = 8 * d;
    add(
        "embedding", fmt::format("{} of {} x {}", n, vocabulary, d),
        [=, draw = draw_] {
          return std::vector<Operand>{{integers({1, n}, 1, vocabulary), Operand::kConstant}, draw.weight({vocabulary, d}, 2, 1)};
        },
        [](const Vars& in) { return Vars{embedding(in[0], in[1], 0, in[1].dtype())}; });
    add(
        "cross_entropy", fmt::format("{} x {} by {}", n, d, vocabulary),
        [=, draw = draw_] {
          return std::vector<Operand>{draw.activation({1, n, d}, 1),
                                      draw.weight({vocabulary, d}, 2, 2 / std::sqrt(d)),
                                      {integers({1, n}, 3, vocabulary), Operand::kConstant}};
        },
        [](const Vars& in) {
          const HeadScores scores = head_scores(in[0], in[1], in[2].data(), 0);
          return Vars{cross_entropy(scores, in[2].data())};
        });
  }

  int64_t tokens_, width_;
  Draw draw_;
  Runs runs_;
  std::vector<OpCheck> checks_;
};

}  // namespace

std::vector<OpCheck> op_list(const CheckSize& size, DType dtype) { return OpList(size, dtype).all(); }

}  // namespace ropewalk
