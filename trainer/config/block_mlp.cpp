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
  mlp.act = read_activation(block["act"].about("Activation."));
  mlp.gated = block["gated"].about("Whether the hidden layer is act(gate) * up, or act(up).").flag(true);
  mlp.hidden = block["hidden"].about("Width of the hidden layer.").size();
  mlp.bias = block["bias"].about("Whether all projections have biases.").flag(false);
  mlp.multipliers =
      read_multipliers<2>(block["multipliers"].about("[gate, down]: constant factors on the gate and on the output; null: none."));
  if (mlp.multipliers && !mlp.gated) throw block["multipliers"].error("the first is the gate's, but gated is false");
  return mlp;
}

}  // namespace ropewalk
