#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::kSmall;
using testing::parse;
using testing::small_with;

const std::string kLeast = R"(model:
  d_model: 64
  blocks:
    M: {mixer: mamba2, heads: 8, head_dim: 16, state: 16}
    A: {mixer: attention, heads: 4}
    F: {ffn: mlp, hidden: 128}
    H: {parallel: {branches: [A, M]}}
  layout: {pattern: MFAH}
)";

TEST(Config, FillsInTheDefaultsOfTheContract) {
  const Config config = parse(kLeast);
  const ModelOptions& model = config.options.model;
  EXPECT_EQ(model.vocabulary, 257);
  EXPECT_FALSE(model.tie_embeddings);
  EXPECT_EQ(std::get<Mamba2Options>(model.blocks.at("M")),
            (Mamba2Options{.heads = 8, .head_dim = 16, .state = 16, .groups = 1, .conv = 4, .chunk = 128}));
  EXPECT_EQ(std::get<AttentionBlockOptions>(model.blocks.at("A")),
            (AttentionBlockOptions{.heads = 4, .kv_heads = 4, .head_dim = 16, .rope = {}, .window = {}}));
  EXPECT_EQ(std::get<ParallelOptions>(model.blocks.at("H")),
            (ParallelOptions{.branches = {"A", "M"}, .combine = Combine::kMean, .in_scales = {1, 1}, .out_scales = {1, 1}}));
  EXPECT_EQ(std::get<MlpOptions>(model.blocks.at("F")), (MlpOptions{.hidden = 128, .act = Activation::kSilu, .gated = true}));
  EXPECT_EQ(model.norm, (NormOptions{.type = NormOptions::kRms, .eps = 1e-5, .zero_centered = false}));
  EXPECT_EQ(model.final_norm, model.norm);
  EXPECT_EQ(model.scales, (ScaleOptions{.embed = 1, .residual = 1, .logits = 1}));
  EXPECT_EQ(model.init,
            (InitOptions{.weights = InitOptions::kKaiming, .std = 0.02, .embedding_std = 0.02, .residual = InitOptions::kSqrtDepth}));
  EXPECT_TRUE(model.shared.empty() && model.kv.empty());

  const OptimizerOptions& optimizer = config.options.optimizer;
  EXPECT_EQ(optimizer.type, OptimizerOptions::kAdamW);
  EXPECT_EQ(optimizer.values.beta1, 0.9);
  EXPECT_EQ(optimizer.values.beta2, 0.95);
  EXPECT_EQ(optimizer.values.eps, 1e-8);
  EXPECT_EQ(optimizer.values.weight_decay, 0.1);
  EXPECT_FALSE(optimizer.values.decay_all);
  EXPECT_EQ(optimizer.values.schedule.type, ScheduleOptions::kConstant);
  EXPECT_EQ(optimizer.values.schedule.warmup, 0);

  EXPECT_TRUE(config.options.data.packed);
  EXPECT_EQ(config.options.data.validation, 0);
  const TrainOptions& train = config.options.train;
  EXPECT_EQ(train.micro_batch, 1);
  EXPECT_EQ(train.precision, Precision::kBf16);
  EXPECT_TRUE(train.residual_wide);
  EXPECT_EQ(train.clip, 1.0);
  EXPECT_EQ(train.recompute, Recompute::kNone);
  EXPECT_EQ(train.seed, 1u);
  EXPECT_EQ(train.eval_every, 0);
  EXPECT_EQ(config.options.parallel, MeshOptions());
  EXPECT_TRUE(config.options.parallel.sequence);
  EXPECT_EQ(config.options.checkpoint, (CheckpointOptions{.every = 0, .keep = 3, .keep_every = 0}));
  EXPECT_EQ(config.options.run, (RunOptions{.dir = "runs/x", .resume = "auto", .timeout = 600}));
}

TEST(Config, FillsInTheDefaultsOfASchedule) {
  const auto schedule = [](const std::string& text) {
    return parse(kLeast + "optimizer: {schedule: " + text + "}\n").options.optimizer.values.schedule;
  };
  EXPECT_EQ(schedule("{type: wsd}").decay, 0.2);
  EXPECT_EQ(schedule("{type: wsd}").shape, ScheduleOptions::kSqrtDecay);
  EXPECT_EQ(schedule("{type: cosine}").final, 0);
  EXPECT_EQ(schedule("{type: cosine, warmup: 0.1, final: 0.1}"),
            (ScheduleOptions{.type = ScheduleOptions::kCosine, .warmup = 0.1, .final = 0.1}));
  EXPECT_EQ(schedule("{type: wsd, decay: 30, shape: cosine}"),
            (ScheduleOptions{.type = ScheduleOptions::kWsd, .shape = ScheduleOptions::kCosineDecay, .decay = 30}));
  EXPECT_EQ(schedule("{type: linear, final: 0.1}"), (ScheduleOptions{.type = ScheduleOptions::kLinear, .final = 0.1}));
  EXPECT_EQ(schedule("{type: inverse_sqrt, warmup: 50}"), (ScheduleOptions{.type = ScheduleOptions::kInverseSqrt, .warmup = 50}));
}

const std::string kEverything = R"(model:
  d_model: 96
  tokenizer: bytes
  tie_embeddings: true
  norm: {type: rms, eps: 1.0e-6, zero_centered: true}
  final_norm: {type: layer, eps: 1.0e-4}
  scales: {embed: 12, residual: 0.22, logits: 0.125}
  init: {weights: normal, std: 0.01, embedding_std: 1.0e-4, residual: none}
  blocks:
    "-": {ffn: mlp, hidden: 256, act: gelu_tanh, gated: true, bias: true, multipliers: [0.5, 2]}
    M: {mixer: mamba2, heads: 6, head_dim: 8, state: 24, groups: 3, conv: 3, chunk: 32, gate_norm: {order: norm_first, group: all},
        dt_limit: [0.01, 0.2], multipliers: [1, 2, 3, 4, 5]}
    A: {mixer: attention, heads: 12, kv_heads: 4, head_dim: 10, rope: {theta: 500, fraction: 0.6}, window: 7, qk_norm: true,
        output_gate: sigmoid, bias: [q, v, out], scale: 0.25, key_scale: 0.5}
    both: {parallel: {branches: [A, M], combine: sum, in_scales: [0.5, 2], out_scales: [0.25, 4]}}
  layout: {ratio: "1:1", of: [both, A], layers: 6, placement: last, ffn: "-"}
  sharing:
    blocks: [{name: twice, at: [0, 1], concat_embedding: true}]
    kv: [{from: 3, to: [4, 5]}]
optimizer:
  type: sgd
  betas: [0.8, 0.99]
  eps: 1.0e-10
  weight_decay: 0.05
  lr: 0.25
  schedule: {type: cosine, warmup: 20, final: 0.1}
  groups:
    - {name: dynamics, match: {role: [A_log, D, dt_bias]}, lr: 1.0e-3, weight_decay: 0, schedule: {type: wsd, warmup: 0.1}}
    - {name: rest, match: {kind: [ssm, mlp], role: weight}, betas: [0.7, 0.9], eps: 1.0e-6, schedule: {final: 0.2}}
data:
  source: {type: text, path: "text: of #1", documents: form_feed}
  seq_len: 256
  packed: false
  validation: 0.05
train: {steps: 100, batch: 64, micro_batch: 4, precision: fp64, residual: fp32, clip: null, recompute: [mamba2, mlp], skip_spikes: {sigma: 5, window: 64}, seed: 7, eval_every: 20, health_every: 5}
parallel: {pipeline: 2, data: 2, context: 4, tensor: 2, sequence: false, context_runs: 2,
           schedule: interleaved, virtual_stages: 2, stages: [1, 2, 1, 3]}
checkpoint: {every: 20, keep: 5, keep_every: 100, async: false}
run: {dir: "123", resume: never, device: cpu, timeout: 30.5, trace: {from: 10, steps: 2}, peak_flops: 1.0e+12}
)";

TEST(Config, ReadsEveryKey) {
  const Options options = parse(kEverything).options;
  Options expected;
  expected.model.d_model = 96;
  expected.model.vocabulary = 257;
  expected.model.tie_embeddings = true;
  expected.model.norm = {.type = NormOptions::kRms, .eps = 1e-6, .zero_centered = true};
  expected.model.final_norm = {.type = NormOptions::kLayer, .eps = 1e-4, .zero_centered = false};
  expected.model.scales = {.embed = 12, .residual = 0.22, .logits = 0.125};
  expected.model.init = {.weights = InitOptions::kNormal, .std = 0.01, .embedding_std = 1e-4, .residual = InitOptions::kNone};
  expected.model.blocks["-"] =
      MlpOptions{.hidden = 256, .act = Activation::kGeluTanh, .gated = true, .bias = true, .multipliers = {{0.5, 2}}};
  expected.model.blocks["M"] = Mamba2Options{.heads = 6,
                                             .head_dim = 8,
                                             .state = 24,
                                             .groups = 3,
                                             .conv = 3,
                                             .chunk = 32,
                                             .gate_norm = {.order = GateNormOptions::kNormFirst, .group = GateNormOptions::kAll},
                                             .dt_limit = {{0.01, 0.2}},
                                             .multipliers = {{1, 2, 3, 4, 5}}};
  expected.model.blocks["A"] = AttentionBlockOptions{.heads = 12,
                                                     .kv_heads = 4,
                                                     .head_dim = 10,
                                                     .rope = RopeOptions{.theta = 500, .fraction = 0.6},
                                                     .window = 7,
                                                     .qk_norm = true,
                                                     .output_gate = AttentionBlockOptions::kSigmoid,
                                                     .bias = {.q = true, .k = false, .v = true, .out = true},
                                                     .scale = 0.25,
                                                     .key_scale = 0.5};
  expected.model.blocks["both"] =
      ParallelOptions{.branches = {"A", "M"}, .combine = Combine::kSum, .in_scales = {0.5, 2}, .out_scales = {0.25, 4}};
  expected.model.layers = {{"both", "-"}, {"both", "-"}, {"both", "-"}, {"A", "-"}, {"A", "-"}, {"A", "-"}};
  expected.model.shared = {{.name = "twice", .at = {0, 1}, .concat_embedding = true}};
  expected.model.kv = {{.from = 3, .to = {4, 5}}};

  OptimizerValues values{.lr = 0.25, .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-10, .weight_decay = 0.05, .schedule = {}};
  values.schedule = {.type = ScheduleOptions::kCosine, .warmup = 20, .final = 0.1};
  expected.optimizer = {.type = OptimizerOptions::kSgd, .values = values, .groups = {}};
  OptimizerGroup dynamics{.name = "dynamics", .kinds = {}, .roles = {Role::kALog, Role::kD, Role::kDtBias}, .values = values};
  dynamics.values.lr = 1e-3;
  dynamics.values.weight_decay = 0;
  dynamics.values.decay_all = true;
  dynamics.values.schedule = {.type = ScheduleOptions::kWsd, .warmup = 0.1};
  OptimizerGroup rest{.name = "rest", .kinds = {Kind::kSsm, Kind::kMlp}, .roles = {Role::kWeight}, .values = values};
  rest.values.beta1 = 0.7;
  rest.values.beta2 = 0.9;
  rest.values.eps = 1e-6;
  rest.values.schedule.final = 0.2;
  expected.optimizer.groups = {dynamics, rest};

  expected.data = {.source = TextSource{.path = "text: of #1", .documents = DocumentEnd::kFormFeed},
                   .validation_source = {},
                   .seq_len = 256,
                   .packed = false,
                   .validation = 0.05};
  expected.train = {.steps = 100,
                    .batch = 64,
                    .micro_batch = 4,
                    .precision = Precision::kFp64,
                    .clip = {},
                    .recompute = RecomputePolicy({"mamba2", "mlp"}),
                    .skip_spikes = SpikeOptions{.sigma = 5, .window = 64},
                    .seed = 7,
                    .eval_every = 20,
                    .health_every = 5};
  expected.parallel = {.pipeline = 2,
                       .context = 4,
                       .tensor = 2,
                       .data = 2,
                       .sequence = false,
                       .context_runs = 2,
                       .schedule = PipelineSchedule::kInterleaved,
                       .virtual_stages = 2,
                       .stages = {1, 2, 1, 3}};
  expected.checkpoint = {.every = 20, .keep = 5, .keep_every = 100, .async = false};
  expected.run = {.dir = "123",
                  .resume = "never",
                  .device = DeviceChoice::kCpu,
                  .timeout = 30.5,
                  .trace = TraceOptions{.from = 10, .steps = 2},
                  .peak_flops = 1e12};

  EXPECT_EQ(options.model, expected.model);
  EXPECT_EQ(options.optimizer, expected.optimizer);
  EXPECT_EQ(options.data, expected.data);
  EXPECT_EQ(options.train, expected.train);
  EXPECT_EQ(options.parallel, expected.parallel);
  EXPECT_EQ(options.checkpoint, expected.checkpoint);
  EXPECT_EQ(options.run, expected.run);
}

TEST(Config, TakesOddHeadsWithoutRope) {
  const Config config = parse(small_with("heads: 4", "heads: 5, head_dim: 7"));
  EXPECT_EQ(std::get<AttentionBlockOptions>(config.options.model.blocks.at("A")).head_dim, 7);
}

TEST(Config, TakesTheFinalNormAfterTheNorm) {
  const auto final_norm = [](const std::string& keys) {
    return parse(small_with("d_model: 64", "d_model: 64\n  norm: {eps: 0.25, zero_centered: true}\n" + keys)).options.model.final_norm;
  };
  EXPECT_EQ(final_norm(""), (NormOptions{.type = NormOptions::kRms, .eps = 0.25, .zero_centered = true}));
  EXPECT_EQ(final_norm("  final_norm: {type: layer}"), (NormOptions{.type = NormOptions::kLayer, .eps = 0.25, .zero_centered = false}));
}

TEST(Config, ReadsTheWaysToCombineBranches) {
  const auto combine = [](const std::string& name) {
    const Config config = parse(small_with("[A, M]", "[A, M], in_scales: [2, 0.5], combine: " + name));
    return std::get<ParallelOptions>(config.options.model.blocks.at("H"));
  };
  for (const auto& [name, value] : std::vector<std::pair<const char*, Combine>>{
           {"normed_mean", Combine::kNormedMean}, {"gated", Combine::kGated}, {"concat_proj", Combine::kConcatProj}})
    EXPECT_EQ(combine(name), (ParallelOptions{.branches = {"A", "M"}, .combine = value, .in_scales = {2, 0.5}, .out_scales = {}}));
}

TEST(Config, ReadsTheNarrowResidual) { EXPECT_FALSE(parse(kSmall, {"train.residual=bf16"}).options.train.residual_wide); }

TEST(ResolvedConfig, ReloadsToTheSameOptions) {
  const std::string narrow = small_with("batch: 8", "batch: 8, residual: bf16");
  const std::string symbols = small_with("pattern: MFAFHF", "pattern: {symbols: {\"*\": A, \"~\": F, \"1\": M}, string: \"1~*~\"}");
  const std::string rules = small_with("{pattern: MFAFHF}", "{rules: {layers: 6, mixer: {A: i % 3 == 1, H: i > 4, else: M}, ffn: F}}");
  const std::string units = small_with("{pattern: MFAFHF}", "{units: [{repeat: 2, layers: [M, [A, F, none]]}, {layers: [[H, F]]}]}");
  const std::string gated = small_with("[A, M]", "[A, M], combine: gated");
  for (const std::string& text : {kLeast, kSmall, kEverything, narrow, symbols, gated, rules, units}) {
    const Config first = parse(text), second = parse_config(first.resolved, "a checkpoint", {});
    EXPECT_EQ(second.options, first.options) << first.resolved;
    EXPECT_EQ(second.resolved, first.resolved);
  }
}

TEST(ResolvedConfig, QuotesTextThatLooksLikeSomethingElse) {
  const std::string resolved = parse(kEverything).resolved;
  for (const char* line : {"  dir: \"123\"\n", "    ratio: \"1:1\"\n", "    path: \"text: of #1\"\n"})
    EXPECT_NE(resolved.find(line), std::string::npos) << line;
}

TEST(ResolvedConfig, IsWholeInBlockStyleAndLeavesInheritedValuesUnsaid) {
  EXPECT_EQ(parse(kSmall).resolved, R"(model:
  d_model: 64
  tokenizer: bytes
  tie_embeddings: false
  norm:
    type: rms
    eps: 1.0e-05
    zero_centered: false
  final_norm:
    type: rms
    eps: 1.0e-05
    zero_centered: false
  scales:
    embed: 1
    residual: 1
    logits: 1
  init:
    weights: kaiming
    std: 0.02
    embedding_std: 0.02
    residual: sqrt_depth
  blocks:
    M:
      mixer: mamba2
      heads: 8
      head_dim: 16
      state: 16
      groups: 1
      conv: 4
      chunk: 128
      gate_norm:
        order: gate_first
        group: per_group
      dt_limit: null
      multipliers: null
    A:
      mixer: attention
      heads: 4
      kv_heads: 4
      head_dim: 16
      rope: none
      window: null
      qk_norm: false
      output_gate: none
      bias: []
      scale: null
      key_scale: 1
    F:
      ffn: mlp
      act: silu
      gated: true
      hidden: 128
      bias: false
      multipliers: null
    H:
      parallel:
        branches: [A, M]
        combine: mean
        in_scales: [1, 1]
        out_scales: [1, 1]
  layout:
    pattern: MFAFHF
  sharing:
    blocks: []
    kv: []
optimizer:
  type: adamw
  lr: 0.003
  betas: [0.9, 0.95]
  eps: 1.0e-08
  weight_decay: 0.1
  schedule:
    type: wsd
    warmup: 100
    decay: 0.2
    shape: sqrt
    final: 0
  groups:
    - name: ssm
      match:
        kind: [ssm]
        role: []
      lr: 0.001
data:
  source:
    type: text
    path: kjv.txt
    documents: file
  validation_source: null
  seq_len: 128
  packed: true
  validation: 0
train:
  steps: 10
  batch: 8
  micro_batch: 1
  precision: bf16
  residual: fp32
  clip: 1
  recompute: none
  skip_spikes: null
  seed: 1
  eval_every: 0
  health_every: 100
parallel:
  pipeline: 1
  data: null
  context: 1
  tensor: 1
  sequence: true
  expert: 1
  expert_tensor: false
  zero: 1
  context_runs: 1
  virtual_stages: 1
  schedule: 1f1b
  stages: null
checkpoint:
  every: 0
  keep: 3
  keep_every: 0
  async: true
run:
  dir: runs/x
  resume: auto
  device: auto
  timeout: 600
  trace: null
  peak_flops: null
)");
}

TEST(OptimizerGroups, InheritWhatTheyDoNotSay) {
  const auto group = [](const std::string& said) { return parse(small_with("lr: 1.0e-3", said)).options.optimizer.groups[0].values; };
  const OptimizerValues optimizer = parse(kSmall).options.optimizer.values;
  EXPECT_EQ(optimizer.schedule, (ScheduleOptions{.type = ScheduleOptions::kWsd, .warmup = 100}));

  OptimizerValues expected = optimizer;
  expected.lr = 1e-3;
  EXPECT_EQ(group("lr: 1.0e-3"), expected);
  expected = optimizer;
  expected.weight_decay = 0.1;
  expected.decay_all = true;
  EXPECT_EQ(group("weight_decay: 0.1"), expected);
  expected = optimizer;
  expected.schedule = {.type = ScheduleOptions::kCosine};  // warmup 0: not that of the optimizer
  EXPECT_EQ(group("schedule: {type: cosine}"), expected);
  expected = optimizer;
  expected.schedule.decay = 0.5;
  EXPECT_EQ(group("schedule: {decay: 0.5}"), expected);
}

TEST(OptimizerGroups, CannotShapeAConstantSchedule) {
  EXPECT_EQ(testing::mistake([] { parse(small_with("lr: 1.0e-3", "schedule: {final: 0.1}"), {"optimizer.schedule.type=constant"}); }),
            "configs/x.yaml:13: optimizer.groups.0.schedule.final: a schedule of type constant has none; name the type that is meant");
}

TEST(Changes, NeedABranchUnlessTheContractFreesThem) {
  const Config before = parse(kSmall);
  const auto changes = [&](const std::vector<std::string>& overrides) {
    return changes_that_need_branch(before, parse(kSmall, overrides));
  };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(changes({}), Lines{});
  EXPECT_EQ(changes({"parallel={tensor: 2, data: 2, pipeline: 2, context: 2, sequence: false, context_runs: 2, schedule: zero_bubble, "
                     "stages: [1, 1]}",
                     "train.micro_batch=2", "train.recompute=full", "train.steps=1000", "train.eval_every=5",
                     "checkpoint={every: 10, keep: 1, keep_every: 4}", "run={dir: elsewhere, resume: auto, device: cpu, timeout: 5}"}),
            Lines{});
  EXPECT_EQ(changes({"optimizer.lr=0.003", "optimizer.betas=[0.90, 9.5e-1]"}), Lines{});
  EXPECT_EQ(changes({"train.batch=16", "optimizer.lr=1e-3", "optimizer.betas=[0.9, 0.99]"}),
            (Lines{"optimizer.betas: [0.9, 0.95] before, [0.9, 0.99] now", "optimizer.lr: 0.003 before, 0.001 now",
                   "train.batch: 8 before, 16 now"}));
  EXPECT_EQ(changes({"train.precision=fp32", "train.residual=fp32", "train.clip=null", "train.seed=2"}),
            (Lines{"train.clip: 1 before, null now", "train.precision: bf16 before, fp32 now", "train.seed: 1 before, 2 now"}));
  EXPECT_EQ(changes({"model.layout.pattern=MFAF"}), (Lines{"model.layout.pattern: MFAFHF before, MFAF now"}));
  const std::string deep(100, 'M');
  EXPECT_EQ(changes_that_need_branch(parse(kSmall, {"model.layout.pattern=" + deep}), parse(kSmall, {"model.layout.pattern=" + deep + "A"}))
                .size(),
            1u);
  EXPECT_EQ(changes({"data.packed=false", "optimizer.groups=[]"}),
            (Lines{"data.packed: true before, false now", "optimizer.groups: not given before, [] now",
                   "optimizer.groups.0.lr: 0.001 before, not given now", "optimizer.groups.0.match.kind: [ssm] before, not given now",
                   "optimizer.groups.0.match.role: [] before, not given now", "optimizer.groups.0.name: ssm before, not given now"}));
}

}  // namespace
}  // namespace ropewalk
