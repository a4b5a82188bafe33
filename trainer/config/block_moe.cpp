// A block `ffn: moe`. A key that the block's router has no use for is refused: it would be read and do nothing.
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

const char* const kRouter =
    "How experts are chosen and weighted: softmax, then the top k; top k, then softmax over them; sigmoid with a bias that balances; "
    "sigmoid of the best, assigned by Sinkhorn in training.";

void refuse(const Node& block, const std::vector<std::string>& keys, const std::string& router) {
  for (const std::string& key : keys)
    if (block[key].given()) throw block[key].error(fmt::format("only router {} has it", router));
}

void read_groups(const Node& block, MoeOptions& moe) {
  RouterOptions& router = moe.router;
  router.groups = block["groups"].about("`sigmoid_bias`: groups of experts, of which only the best are chosen from.").size(1);
  router.top_groups = block["top_groups"].about("`sigmoid_bias`: how many groups are chosen from.", "`groups`").size(router.groups);
  const int64_t width = moe.experts / router.groups;
  if (moe.experts % router.groups != 0)
    throw block["groups"].error(fmt::format("expected a divisor of experts ({}), given {}", moe.experts, router.groups));
  if (router.top_groups > router.groups)
    throw block["top_groups"].error(fmt::format("expected at most groups ({}), given {}", router.groups, router.top_groups));
  if (router.top_groups * width < router.top_k)
    throw block["top_groups"].error(
        fmt::format("expected enough groups of {} experts for top_k ({}), given {}", width, router.top_k, router.top_groups));
}

void read_router(const Node& block, MoeOptions& moe) {
  RouterOptions& router = moe.router;
  router.type = block["router"].about(kRouter).choice<RouterType>({{"softmax_topk", RouterType::kSoftmaxTopk},
                                                                   {"topk_softmax", RouterType::kTopkSoftmax},
                                                                   {"sigmoid_bias", RouterType::kSigmoidBias},
                                                                   {"sigmoid_top1", RouterType::kSigmoidTop1}});
  const bool top1 = router.type == RouterType::kSigmoidTop1;
  const Node top_k = block["top_k"].about("Experts that a token goes through.", "required, but 1 with `sigmoid_top1`");
  router.top_k = top1 ? top_k.size(1) : top_k.size();
  if (top1 && router.top_k != 1) throw top_k.error(fmt::format("expected 1 with router sigmoid_top1, given {}", router.top_k));
  if (router.top_k > moe.experts) throw top_k.error(fmt::format("expected at most experts ({}), given {}", moe.experts, router.top_k));
  router.scale = block["scale"].about("Factor on the weights of the chosen experts.").number(kPositive, 1.0);
  if (router.type == RouterType::kSoftmaxTopk) {
    router.renorm = block["renorm"].about("`softmax_topk`: whether the weights are divided by their sum.").flag(false);
  } else {
    refuse(block, {"renorm"}, "softmax_topk");
  }
  if (router.type == RouterType::kSigmoidBias) {
    read_groups(block, moe);
    moe.bias_update = block["bias_update"]
                          .about("`sigmoid_bias`: how far the balancing bias of an expert moves a step.")
                          .number(kNotNegative, moe.bias_update);
  } else {
    refuse(block, {"groups", "top_groups", "bias_update"}, "sigmoid_bias");
  }
  if (top1) {
    moe.sinkhorn = block["sinkhorn"].about("`sigmoid_top1`: iterations of the balanced assignment.").integer(0, 1000, moe.sinkhorn);
  } else {
    refuse(block, {"sinkhorn"}, "sigmoid_top1");
  }
}

std::optional<SharedExpertOptions> read_shared(const Node& shared) {
  if (shared.is_null(true)) return {};
  return SharedExpertOptions{.hidden = shared["hidden"].about("Width of its hidden layer.").size(),
                             .gated = shared["gate"]
                                          .about("Its output times sigmoid of a projection of the token, or as it is.")
                                          .choice<bool>({{"none", false}, {"sigmoid", true}}, false)};
}

}  // namespace

MoeOptions read_moe(const Node& block) {
  MoeOptions moe;
  moe.experts = block["experts"].about("How many experts.").size();
  moe.hidden = block["hidden"].about("Width of an expert's hidden layer.").size();
  moe.act = read_activation(block["act"].about("Activation."));
  moe.gated = block["gated"].about("Whether an expert's hidden layer is act(gate) * up, the shared one's too.").flag(true);
  read_router(block, moe);
  moe.router_bias = block["router_bias"].about("Whether the router's projection has a bias.").flag(false);
  moe.balance = block["balance"].about("Coefficient of the balance loss, taken for each sequence and layer.").number(kNotNegative, 0.0);
  moe.z = block["z"].about("Coefficient of the z-loss: the mean square of the logits' log-sum-exp.").number(kNotNegative, 0.0);
  moe.shared = read_shared(block["shared"].about("An expert that every token goes through; null: none."));
  return moe;
}

}  // namespace ropewalk
