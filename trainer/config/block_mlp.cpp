// `ffn: mlp`.
#include "trainer/config/sections.h"

namespace ropewalk {

Activation read_activation(const Node& node) {
  return node.choice<Activation>(
      {{"silu", Activation::kSilu}, {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh}, {"relu2", Activation::kRelu2}},
      Activation::kSilu);
}

MlpOptions read_mlp(const Node& block) {
  MlpOptions mlp;
  mlp.act = read_activation(block["act"]);
  mlp.gated = block["gated"].flag(true);
  mlp.hidden = block["hidden"].size();
  mlp.bias = block["bias"].flag(false);
  mlp.multipliers = read_multipliers<2>(block["multipliers"]);
  if (mlp.multipliers && !mlp.gated) throw block["multipliers"].error("the first is the gate's, but gated is false");
  return mlp;
}

}  // namespace ropewalk
