#include <gmock/gmock.h>

#include "kernels/tensor/memory.h"
#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::kSmall;
using testing::mistake;
using testing::parse;
using testing::small_with;

struct Mistake {
  std::string from, to, message;
};

void expect_messages(const std::vector<Mistake>& mistakes) {
  for (const Mistake& m : mistakes) EXPECT_EQ(mistake([&] { parse(small_with(m.from, m.to)); }), m.message) << m.to;
}

TEST(Config, RefusesUnknownKeysAndNamesTheNearest) {
  expect_messages({
      {"state: 16", "state: 16, chunck: 64", "configs/x.yaml:4: model.blocks.M.chunck: unknown key; did you mean chunk?"},
      {"batch: 8", "batch: 8, microbatch: 2", "configs/x.yaml:17: train.microbatch: unknown key; did you mean micro_batch?"},
      {"seq_len: 128", "seq_len: 128\n  shuffle: true",
       "configs/x.yaml:17: data.shuffle: unknown key; expected one of source, validation_source, seq_len, packed or validation"},
      {"data:\n", "kernels: {attention: auto}\ndata:\n",
       "configs/x.yaml:14: kernels: unknown key; expected one of model, optimizer, data, train, parallel, checkpoint or run"},
      {"kind: ssm}", "kind: ssm, roles: norm}", "configs/x.yaml:13: optimizer.groups.0.match.roles: unknown key; did you mean role?"},
      {"pattern: MFAFHF}", "pattern: MFAFHF, ffn: F}",
       "configs/x.yaml:8: model.layout.ffn: unknown key; expected one of pattern, ratio, rules or units"},
  });
}

TEST(Config, TakesAnAlmostRightKeyForTheRequiredOne) {
  expect_messages({
      {"d_model", "dmodel", "configs/x.yaml:2: model.dmodel: unknown key; did you mean d_model?"},
      {"model:", "modle:", "configs/x.yaml:1: modle: unknown key; did you mean model?"},
      {"heads: 8", "haeds: 8", "configs/x.yaml:4: model.blocks.M.haeds: unknown key; did you mean heads?"},
      {"mixer: mamba2", "mixr: mamba2", "configs/x.yaml:4: model.blocks.M.mixr: unknown key; did you mean mixer?"},
  });
}

TEST(Config, NamesWhatIsRequired) {
  expect_messages({
      {"  d_model: 64\n", "", "configs/x.yaml:1: model.d_model: required, not given"},
      {", state: 16", "", "configs/x.yaml:4: model.blocks.M.state: required, not given"},
      {"attention, heads: 4", "attention, kv_heads: 4", "configs/x.yaml:5: model.blocks.A.heads: required, not given"},
      {", hidden: 128", "", "configs/x.yaml:6: model.blocks.F.hidden: required, not given"},
      {"  layout: {pattern: MFAFHF}\n", "", "configs/x.yaml:1: model.layout: required, not given"},
      {"{mixer: attention, heads: 4}", "{heads: 4}",
       "configs/x.yaml:5: model.blocks.A: expected one of mixer, ffn or parallel, given none"},
      {"name: ssm, ", "", "configs/x.yaml:13: optimizer.groups.0.name: required, not given"},
      {", path: kjv.txt", "", "configs/x.yaml:15: data.source.path: required, not given"},
  });
  EXPECT_EQ(mistake([] { parse(""); }), "configs/x.yaml:1: model.d_model: required, not given");
}

TEST(Config, NamesWhatTrainingRequires) {
  const auto missing = [](const std::string& from, const std::string& to) {
    const Config config = parse(small_with(from, to));
    return mistake([&] { require_trainable(config); });
  };
  EXPECT_NO_THROW(require_trainable(parse(kSmall)));
  EXPECT_EQ(missing("  lr: 3.0e-3\n", ""), "configs/x.yaml:9: optimizer.lr: required to train, not given");
  EXPECT_EQ(missing("steps: 10, ", ""), "configs/x.yaml:17: train.steps: required to train, not given");
  EXPECT_EQ(missing(", batch: 8", ""), "configs/x.yaml:17: train.batch: required to train, not given");
  EXPECT_EQ(missing("  seq_len: 128\n", ""), "configs/x.yaml:14: data.seq_len: required to train, not given");
  EXPECT_EQ(missing("  source: {type: text, path: kjv.txt}\n", ""), "configs/x.yaml:14: data.source: required to train, not given");
}

TEST(Config, RefusesWrongTypes) {
  expect_messages({
      {"d_model: 64", "d_model: wide", "configs/x.yaml:2: model.d_model: expected a positive integer, given wide"},
      {"d_model: 64", "d_model: \"64\"", "configs/x.yaml:2: model.d_model: expected a positive integer, given \"64\""},
      {"d_model: 64", "d_model: 64.5", "configs/x.yaml:2: model.d_model: expected a positive integer, given 64.5"},
      {"d_model: 64", "d_model: [64, 32]", "configs/x.yaml:2: model.d_model: expected a positive integer, given [64, 32]"},
      {"d_model: 64", "d_model:", "configs/x.yaml:2: model.d_model: expected a positive integer, given null"},
      {"d_model: 64", "d_model: |\n    a\n    b", "configs/x.yaml:2: model.d_model: expected a positive integer, given \"a..."},
      {"d_model: 64", "d_model: 64\n  tie_embeddings: yes", "configs/x.yaml:3: model.tie_embeddings: expected true or false, given yes"},
      {"d_model: 64", "d_model: 64\n  tie_embeddings: \"true\"",
       "configs/x.yaml:3: model.tie_embeddings: expected true or false, given \"true\""},
      {"lr: 3.0e-3", "lr: fast", "configs/x.yaml:10: optimizer.lr: expected a number of 0 or more, given fast"},
      {"lr: 3.0e-3", "lr: .inf", "configs/x.yaml:10: optimizer.lr: expected a number of 0 or more, given .inf"},
      {"lr: 3.0e-3", "lr: inf", "configs/x.yaml:10: optimizer.lr: expected a number of 0 or more, given inf"},
      {"train: {steps: 10, batch: 8}", "train: fast", "configs/x.yaml:17: train: expected a mapping, given fast"},
      {"{name: ssm, match: {kind: ssm}, lr: 1.0e-3}", "ssm", "configs/x.yaml:13: optimizer.groups.0: expected a mapping, given ssm"},
      {"path: kjv.txt", "path: [a, b]", "configs/x.yaml:15: data.source.path: expected a text, given [a, b]"},
      {"lr: 3.0e-3", "betas: [0.9]", "configs/x.yaml:10: optimizer.betas: expected 2 numbers, given [0.9]"},
      {"lr: 3.0e-3", "betas: 0.9", "configs/x.yaml:10: optimizer.betas: expected a list, given 0.9"},
  });
  EXPECT_EQ(mistake([] { parse("just words"); }), "configs/x.yaml:1: expected a mapping, given just words");
}

TEST(Config, RefusesImpossibleSizesAndNumbers) {
  expect_messages({
      {"d_model: 64", "d_model: 0", "configs/x.yaml:2: model.d_model: expected a positive integer, given 0"},
      {"d_model: 64", "d_model: -64", "configs/x.yaml:2: model.d_model: expected a positive integer, given -64"},
      {"d_model: 64", "d_model: 4294967296", "configs/x.yaml:2: model.d_model: expected at most 2147483647, given 4294967296"},
      {"d_model: 64", "d_model: 99999999999999999999",
       "configs/x.yaml:2: model.d_model: expected a positive integer, given 99999999999999999999"},
      {"state: 16", "state: 16, groups: 3", "configs/x.yaml:4: model.blocks.M.groups: expected a divisor of heads (8), given 3"},
      {"heads: 4", "heads: 4, kv_heads: 3", "configs/x.yaml:5: model.blocks.A.kv_heads: expected a divisor of heads (4), given 3"},
      {"heads: 4", "heads: 5", "configs/x.yaml:5: model.blocks.A.head_dim: required where heads (5) do not divide d_model (64)"},
      {"heads: 4", "heads: 4, head_dim: 7, rope: {theta: 10000}",
       "configs/x.yaml:5: model.blocks.A.head_dim: expected an even number for rope, given 7"},
      {"heads: 4", "heads: 4, rope: {fraction: 0.1}",
       "configs/x.yaml:5: model.blocks.A.rope.fraction: expected a part of head_dim (16) that is an even number of channels, at most all, "
       "given 0.1"},
      {"heads: 4", "heads: 4, rope: {fraction: 1.5}",
       "configs/x.yaml:5: model.blocks.A.rope.fraction: expected a part of head_dim (16) that is an even number of channels, at most all, "
       "given 1.5"},
      {"heads: 4", "heads: 4, scale: 0", "configs/x.yaml:5: model.blocks.A.scale: expected a positive number, given 0"},
      {"heads: 4", "heads: 4, key_scale: -1", "configs/x.yaml:5: model.blocks.A.key_scale: expected a positive number, given -1"},
      {"state: 16", "state: 16, dt_limit: [0.1, 0.1]",
       "configs/x.yaml:4: model.blocks.M.dt_limit: expected [low, high] with low below high, given [0.1, 0.1]"},
      {"state: 16", "state: 16, dt_limit: 0.1", "configs/x.yaml:4: model.blocks.M.dt_limit: expected a list, given 0.1"},
      {"state: 16", "state: 16, multipliers: [1, 1]", "configs/x.yaml:4: model.blocks.M.multipliers: expected 5 numbers, given [1, 1]"},
      {"hidden: 128", "hidden: 128, multipliers: [1, 0]",
       "configs/x.yaml:6: model.blocks.F.multipliers.1: expected a positive number, given 0"},
      {"[A, M]", "[A, M], in_scales: [1, 1, 1]",
       "configs/x.yaml:7: model.blocks.H.parallel.in_scales: expected 2 numbers, given [1, 1, 1]"},
      {"d_model: 64", "d_model: 64\n  norm: {eps: 0}", "configs/x.yaml:3: model.norm.eps: expected a positive number, given 0"},
      {"d_model: 64", "d_model: 64\n  scales: {residual: 0}",
       "configs/x.yaml:3: model.scales.residual: expected a positive number, given 0"},
      {"heads: 4", "heads: 4, rope: {theta: 0}", "configs/x.yaml:5: model.blocks.A.rope.theta: expected a positive number, given 0"},
      {"heads: 4", "heads: 4, window: 0", "configs/x.yaml:5: model.blocks.A.window: expected a positive integer, given 0"},
      {"seq_len: 128", "seq_len: 128\n  validation: 1",
       "configs/x.yaml:17: data.validation: expected a number of at least 0 and below 1, given 1"},
      {"lr: 3.0e-3", "betas: [0.9, 1.0]", "configs/x.yaml:10: optimizer.betas.1: expected a number of at least 0 and below 1, given 1.0"},
      {"lr: 3.0e-3", "weight_decay: -0.1", "configs/x.yaml:10: optimizer.weight_decay: expected a number of 0 or more, given -0.1"},
      {"warmup: 100", "warmup: 100.5",
       "configs/x.yaml:11: optimizer.schedule.warmup: expected a whole number of steps, or a share of the run below 1, given 100.5"},
      {"batch: 8", "batch: 8, clip: 0", "configs/x.yaml:17: train.clip: expected a positive number, given 0"},
      {"batch: 8", "batch: 8, eval_every: -1", "configs/x.yaml:17: train.eval_every: expected an integer of 0 or more, given -1"},
  });
}

TEST(Config, SaysWhatThisBuildHas) {
  expect_messages({
      {"mixer: mamba2", "mixer: mamba3", "configs/x.yaml:4: model.blocks.M.mixer: expected mamba1, mamba2 or attention, given mamba3"},
      {"ffn: mlp", "ffn: moe", "configs/x.yaml:6: model.blocks.F.experts: required, not given"},
      {"hidden: 128", "hidden: 128, act: relu",
       "configs/x.yaml:6: model.blocks.F.act: expected silu, gelu, gelu_tanh or relu2, given relu"},
      {"branches: [A, M]", "branches: [A, M], combine: median",
       "configs/x.yaml:7: model.blocks.H.parallel.combine: expected sum, mean, normed_mean, gated or concat_proj, given median"},
      {"d_model: 64", "d_model: 64\n  norm: {type: batch}", "configs/x.yaml:3: model.norm.type: expected rms or layer, given batch"},
      {"d_model: 64", "d_model: 64\n  init: {weights: xavier}",
       "configs/x.yaml:3: model.init.weights: expected kaiming or normal, given xavier"},
      {"d_model: 64", "d_model: 64\n  init: {residual: depth}",
       "configs/x.yaml:3: model.init.residual: expected sqrt_depth or none, given depth"},
      {"heads: 4", "heads: 4, output_gate: silu", "configs/x.yaml:5: model.blocks.A.output_gate: expected none or sigmoid, given silu"},
      {"heads: 4", "heads: 4, bias: [q, o]", "configs/x.yaml:5: model.blocks.A.bias.1: expected q, k, v or out, given o"},
      {"heads: 4", "heads: 4, bias: true", "configs/x.yaml:5: model.blocks.A.bias: expected a list, given true"},
      {"state: 16", "state: 16, gate_norm: {order: gate}",
       "configs/x.yaml:4: model.blocks.M.gate_norm.order: expected gate_first, norm_first or none, given gate"},
      {"state: 16", "state: 16, gate_norm: {group: head}",
       "configs/x.yaml:4: model.blocks.M.gate_norm.group: expected per_group or all, given head"},
      {"type: wsd", "type: step",
       "configs/x.yaml:11: optimizer.schedule.type: expected constant, linear, cosine, wsd or inverse_sqrt, given step"},
      {"train:", "run: {device: tpu}\ntrain:", "configs/x.yaml:17: run.device: expected auto, cpu or cuda, given tpu"},
      {"heads: 4", "heads: 4, rope: 10000",
       "configs/x.yaml:5: model.blocks.A.rope: expected none or {theta: NUMBER, fraction: NUMBER}, given 10000"},
  });
}

TEST(Config, SaysWhereThereIsNoGpu) {
  if (available(Cuda{})) GTEST_SKIP() << "there is one";
  const std::string message = mistake([] { parse(small_with("train:", "run: {device: cuda}\ntrain:")); });
  EXPECT_EQ(message, kHasCuda ? "configs/x.yaml:17: run.device: this machine has no GPU that CUDA can use; expected auto or cpu"
                              : "configs/x.yaml:17: run.device: this build has no CUDA back end (cmake --preset cuda makes one that has); "
                                "expected auto or cpu");
}

TEST(Config, RefusesImpossibleCombinations) {
  expect_messages({
      {"ffn: mlp,", "ffn: mlp, mixer: mamba2,",
       "configs/x.yaml:6: model.blocks.F: expected one of mixer, ffn or parallel, given mixer (configs/x.yaml:6) and ffn "
       "(configs/x.yaml:6)"},
      {"[A, M]", "[A, F]", "configs/x.yaml:7: model.blocks.H.parallel.branches.1: expected a block with a mixer (A or M), given F"},
      {"[A, M]", "[A, H]", "configs/x.yaml:7: model.blocks.H.parallel.branches.1: expected a block with a mixer (A or M), given H"},
      {"[A, M]", "[A, A]", "configs/x.yaml:7: model.blocks.H.parallel.branches.1: A is a branch already"},
      {"[A, M]", "[A]", "configs/x.yaml:7: model.blocks.H.parallel.branches: expected two or more blocks, given [A]"},
      {"[A, M]", "[A, M], combine: gated, out_scales: [1, 2]",
       "configs/x.yaml:7: model.blocks.H.parallel.out_scales: only sum and mean scale what comes out of their branches"},
      {"heads: 4", "heads: 4, bias: [q, q]", "configs/x.yaml:5: model.blocks.A.bias.1: given twice"},
      {"hidden: 128", "hidden: 128, gated: false, multipliers: [1, 2]",
       "configs/x.yaml:6: model.blocks.F.multipliers: the first is the gate's, but gated is false"},
      {"d_model: 64", "d_model: 64\n  norm: {type: layer, zero_centered: true}",
       "configs/x.yaml:3: model.norm.zero_centered: only an rms norm can be zero-centered"},
      {"batch: 8", "batch: 8, precision: fp32, residual: bf16", "configs/x.yaml:17: train.residual: bf16 needs train.precision: bf16"},
      {"type: wsd, warmup: 100", "decay: 0.2",
       "configs/x.yaml:11: optimizer.schedule.decay: a schedule of type constant has none; name the type that is meant"},
      {"type: wsd, warmup: 100", "type: cosine, shape: sqrt",
       "configs/x.yaml:11: optimizer.schedule.shape: a schedule of type cosine has none"},
      {"type: wsd, warmup: 100", "type: wsd, warmup: 0.5, decay: 0.6",
       "configs/x.yaml:11: optimizer.schedule: expected warmup (0.5) and decay (0.6) to be at most the whole run together"},
      {"batch: 8", "batch: 8, recompute: [mamba2, mlps]",
       "configs/x.yaml:17: train.recompute.1: expected mamba1, mamba2, attention, mlp, moe or parallel, given mlps"},
      {"name: ssm", "name: default",
       "configs/x.yaml:13: optimizer.groups.0.name: default is what no group matches; give this group another name"},
      {"lr: 1.0e-3}", "lr: 1.0e-3}\n    - {name: ssm, match: {role: D}}",
       "configs/x.yaml:14: optimizer.groups.1.name: ssm is the name of another group"},
      {"kind: ssm", "kind: mamba",
       "configs/x.yaml:13: optimizer.groups.0.match.kind: expected ssm, attention, mlp, moe, embedding, head or stack, given mamba"},
      {"kind: ssm", "role: [D, bias, a_log]",
       "configs/x.yaml:13: optimizer.groups.0.match.role.2: expected weight, bias, norm, A_log, dt_bias, D, conv, router or router_bias, "
       "given a_log"},
      {", match: {kind: ssm}", "", "configs/x.yaml:13: optimizer.groups.0.match: expected a kind, a role or both"},
  });
}

TEST(Config, RefusesWhatIsNotYaml) {
  expect_messages({
      {"d_model: 64", "d_model: {64", "configs/x.yaml:2: end of map flow not found"},
      {"d_model: 64", "d_model: 64\n  d_model: 32", "configs/x.yaml:3: model.d_model: given twice (line 2)"},
      {"d_model: 64", "? [1, 2]\n  : 64", "configs/x.yaml:2: model: expected keys that are words without dots"},
      {"F: {ffn", "F.wide: {ffn", "configs/x.yaml:6: model.blocks: expected keys that are words without dots"},
      {"d_model: 64", "d_model: &loop {again: *loop}",
       "configs/x.yaml:2: model.d_model.again.again.again.again.again.again.again.again.again.again.again.again.again.again.again.again."
       "again.again.again.again.again.again.again.again.again.again.again.again.again.again.again: nested too deeply"},
      {"train:", "---\ntrain:", "configs/x.yaml:17: expected one YAML document, given several"},
      {"model:", ", model:", "configs/x.yaml:1: expected one YAML document, given several"},
  });
}

TEST(Config, QuotesControlCharactersAsEscapes) {
  EXPECT_EQ(mistake([] { parse(kSmall, {"a\nb\x1b"}); }), "command line: expected key.path=value, given a\\nb\\x1b");
}

TEST(Config, RefusesAliasesThatMultiply) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) text += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  EXPECT_THAT(mistake([&] { parse(text); }), ::testing::EndsWith("expected at most 100000 values in all"));
}

TEST(Config, MeetsAnyDamageWithOneLine) {
  size_t refused = 0;
  for (size_t i = 0; i < kSmall.size(); ++i) {
    for (const char* patch : {"", "~", "\"", "}", "&", "*", "-", ": ", "\n", "9999999999", "\xff"}) {
      std::string text = kSmall;
      const std::string message = mistake([&] { parse(text.replace(i, 1, patch)); });
      refused += message != "no mistake";
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
  EXPECT_GT(refused, 1000u);
}

TEST(Config, PointsAtTheFileOrTheParentOfWhatIsNotGiven) {
  const Config config = parse(kSmall, {"train.steps=20"});
  EXPECT_EQ(config.where("model.blocks.A.heads").text(), "configs/x.yaml:5");
  EXPECT_EQ(config.where("model.blocks.A.rope.theta").text(), "configs/x.yaml:5");
  EXPECT_EQ(config.where("optimizer.groups.0.lr").text(), "configs/x.yaml:13");
  EXPECT_EQ(config.where("parallel.tensor").text(), "configs/x.yaml:1");
  EXPECT_EQ(config.where("train.steps").text(), "command line");
  EXPECT_STREQ(config.error("data.source.path", "{} not there", "kjv.txt").what(),
               "configs/x.yaml:15: data.source.path: kjv.txt not there");
}

}  // namespace
}  // namespace ropewalk
