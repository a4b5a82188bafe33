// `ffn: mlp`.
#include "trainer/config/sections.h"

namespace ropewalk {

MlpOptions read_mlp(const Node& block) {
  MlpOptions mlp;
  mlp.act = block["act"].choice<Activation>(
      {{"silu", Activation::kSilu}, {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh}, {"relu2", Activation::kRelu2}},
      Activation::kSilu);
  mlp.gated = block["gated"].flag(true);
  mlp.hidden = block["hidden"].size();
  mlp.bias = block["bias"].flag(false);
  mlp.multipliers = read_multipliers<2>(block["multipliers"]);
  if (mlp.multipliers && !mlp.gated) throw block["multipliers"].error("the first is the gate's, but gated is false");
  return mlp;
}

}  // namespace ropewalk
