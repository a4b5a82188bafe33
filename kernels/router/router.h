// The router of a mixture of experts: from a token's logits l over E experts to the k experts it goes to and their weights.
// With p = softmax(l) and s = 1 / (1 + e^-l):
//
//   router        chosen: the k greatest    weights of the chosen
//   softmax_topk  l                         scale p; with renorm scale p / (sum of the chosen p)   Mixtral, Jamba, Qwen3-Next
//   topk_softmax  l                         scale softmax(the k chosen l)                          Granite 4
//   sigmoid_bias  s + bias, by groups       scale s / (sum of the chosen s + 1e-20)                DeepSeek-V3, arXiv 2412.19437
//   sigmoid_top1  l, or what is `assigned`  scale s                                                BlackMamba, arXiv 2402.01771
//
// By groups: the experts are `groups` runs of equal length; a group scores the sum of its two greatest s + bias, and only experts of the
// `top_groups` best groups can be chosen. The bias is a constant: gradients flow through the weights alone. Among equals the lowest index
// wins; slots descend by score. Logits, weights and everything here are wide (fp32, or fp64 for fp64).
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

enum class RouterType { kSoftmaxTopk, kTopkSoftmax, kSigmoidBias, kSigmoidTop1 };

struct RouterOptions {
  RouterType type = RouterType::kSoftmaxTopk;
  int64_t top_k = 1;
  bool renorm = false;  // softmax_topk
  double scale = 1;
  int64_t groups = 1, top_groups = 1;  // sigmoid_bias
  bool operator==(const RouterOptions&) const = default;
};

struct Routing {
  Var weight;     // [.., k] wide
  Tensor expert;  // [.., k] int64
};
// `bias` [E] wide for sigmoid_bias, else empty. `assigned` [.., 1] int64 where the experts are chosen already, else empty.
Routing route(const Var& logits, const RouterOptions& options, const Tensor& bias, const Tensor& assigned);

// Assignments by row and expert: [B, S, k] -> [B, E] fp64, whole numbers.
Tensor expert_loads(const Tensor& expert_BSk, int64_t experts);

struct RouterLossOptions {
  RouterType type = RouterType::kSoftmaxTopk;
  int64_t tokens = 0;  // of a whole sequence, of which the logits may hold a part
  double balance = 0, z = 0;
};
// The auxiliary losses of whole sequences, summed over rows: one fp64 number,
//   sum_b [ balance E sum_e f_be P_be  +  z (1/T) sum_t logsumexp(l_bt)^2 ]
// f_be is the share of sequence b's T k assignments that expert e got, P_be the mean over its T tokens of p_e (softmax routers) or of
// s_e / sum s (sigmoid routers): a perfect balance gives `balance`. (Switch, arXiv 2101.03961 eq. 4, with f normalised by k; per sequence
// as DeepSeek-V3 eq. 17-20; z: ST-MoE, arXiv 2202.08906 eq. 5.) f is a constant, so the loss is linear in tokens: of ranks that each hold
// a part of a sequence and know its load_BE [B, E] as a whole, the values and the gradients add up.
Var router_loss(const Var& logits_BSE, const Tensor& load_BE, const RouterLossOptions& options);

// All tensors are dense.
struct RouteForward {
  const Tensor &weight, &expert;
  const Tensor &logits, &bias, &assigned;  // empty where there is none
  const RouterOptions& options;
};
struct RouteBackward {
  const Tensor& dlogits;
  const Tensor &dweight, &logits, &expert;
  const RouterOptions& options;
};
struct ExpertLoads {
  const Tensor& load_BE;
  const Tensor& expert_BSk;
};
struct RouterLossForward {
  const Tensor& loss;
  const Tensor &logits_BSE, &load_BE;
  const RouterLossOptions& options;
};
struct RouterLossBackward {
  const Tensor& dlogits_BSE;
  const Tensor &dloss, &logits_BSE, &load_BE;
  const RouterLossOptions& options;
};
void launch(Cpu, const RouteForward& args);
void launch(Cpu, const RouteBackward& args);
void launch(Cpu, const ExpertLoads& args);
void launch(Cpu, const RouterLossForward& args);
void launch(Cpu, const RouterLossBackward& args);
void launch(Cuda, const RouteForward& args);
void launch(Cuda, const RouteBackward& args);
void launch(Cuda, const ExpertLoads& args);
void launch(Cuda, const RouterLossForward& args);
void launch(Cuda, const RouterLossBackward& args);

}  // namespace ropewalk
