// What ranks send each other in a step, by axis, is what docs/parallelism.md says: to the byte. The formulas are written out here from the
// sizes of the model alone. Runs on four ranks; smaller meshes are cut from them.
#include <gtest/gtest.h>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

// The model: each sub-layer is a character of its pattern. One B/C group and one kv head, which all tensor ranks hold.
constexpr int64_t kModel = 8, kVocabulary = 13, kConv = 4, kState = 3;
constexpr int64_t kRank = 2, kInner1 = 2 * kModel;                           // Mamba-1: dt_rank, channels
constexpr int64_t kHeads = 4, kHeadDim = 4, kInner2 = 16;                    // Mamba-2, and attention
constexpr int64_t kHidden = 12, kExperts = 4, kTopK = 2, kExpertHidden = 6;  // MLP; mixture of experts, not gated
constexpr char kMamba1 = '1', kMamba2 = '2', kAttention = 'A', kMlp = 'F', kMoe = 'E';
// bf16: activations and most weights in two bytes; gradients, states, statistics, the residual stream and small weights in four.
constexpr int64_t kNarrow = 2, kWide = 4;
constexpr int64_t kHeader = 64;  // of a tensor in the pipeline: dtype, rank and six extents

struct Case {
  std::string name, pattern;
  Degrees degrees;
  int zero = 0;
  bool sequence = true;
  bool recompute = false;
  int pieces = 1;       // of a sequence on a rank
  int64_t rows = 1;     // of a microbatch
  int64_t length = 32;  // of a row
  PipelineSchedule schedule = PipelineSchedule::k1F1B;
  int chunks = 1;
  int64_t batch = 4;
  bool tied = false;  // the head is the embedding
  bool expert_tensor = false;
  bool shared_keys = false;  // layer 2, attention, reads the keys and values of layer 0 in another stage

  int64_t replicas() const { return degrees.data * degrees.context; }  // ranks with the same weights
  int64_t microbatches() const { return batch / (degrees.data * rows); }
  int64_t tokens() const { return batch * length; }  // of a step
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Options options_of(const Case& c) {
  Options options = testing::tiny_options();
  options.model = {};
  options.model.d_model = kModel;
  options.model.vocabulary = kVocabulary;
  options.model.blocks = {
      {"1", Mamba1Options{.state = kState, .expand = 2, .conv = kConv, .dt_rank = kRank}},
      {"2", Mamba2Options{.heads = kHeads, .head_dim = kHeadDim, .state = kState, .groups = 1, .conv = kConv, .chunk = 64}},
      {"A", AttentionBlockOptions{.heads = kHeads, .kv_heads = 1, .head_dim = kHeadDim, .rope = RopeOptions{}, .window = {}}},
      {"F", MlpOptions{.hidden = kHidden}},
      {"E", MoeOptions{.experts = kExperts, .hidden = kExpertHidden, .gated = false, .router = {.top_k = kTopK}, .balance = 0.01}}};
  for (const char kind : c.pattern) options.model.layers.push_back({std::string(1, kind)});
  options.model.tie_embeddings = c.tied;
  if (c.shared_keys) options.model.kv = {{.from = 0, .to = {2}}};
  options.data.seq_len = c.length;
  options.train.precision = Precision::kBf16;
  options.train.batch = c.batch;
  options.train.recompute = c.recompute ? Recompute::kFull : Recompute::kNone;
  options.parallel.pipeline = c.degrees.pipeline;
  options.parallel.schedule = c.schedule;
  options.parallel.virtual_stages = c.chunks;
  options.parallel.sequence = c.sequence;
  options.parallel.context_runs = c.pieces;
  options.parallel.zero = c.zero;
  options.parallel.expert_tensor = c.expert_tensor;
  return options;
}

// A row is one document, over all ranks.
Sequence one_document(int64_t i, int64_t length) {
  Sequence row = testing::tiny_sequence(i, length, kVocabulary);
  row.document_begins = {0};
  return row;
}

using Traffic = std::map<std::string, int64_t>;  // bytes by axis

Traffic sent_so_far(const Mesh& mesh) {
  Traffic traffic;
  for (const Axis axis : kAxes) traffic[name_of(axis)] = mesh.bytes_sent(axis);
  return traffic;
}

// What this rank sends in a step.
Traffic measure_here(const Case& c, const Group& group, int64_t step) {
  const Options options = options_of(c);
  const RankModel model(options, group, c.degrees);
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), options.train.steps);
  TrainStep train_step(model, optimizer, {.clip = options.train.clip});
  const auto sequence = [&](int64_t i) { return one_document(i, c.length); };
  Traffic before, after = sent_so_far(model.mesh());
  for (int64_t s = 0; s <= step; ++s) {
    before = after;
    train_step.run(s, make_batches(sequence, s, {c.batch, c.rows, c.pieces}, model.mesh()));
    after = sent_so_far(model.mesh());
  }
  for (auto& [axis, bytes] : after) bytes -= before[axis];
  return after;
}

// What all ranks send.
Traffic measure(const Case& c, const Group& group, int64_t step) {
  Traffic traffic = measure_here(c, group, step);
  for (auto& [axis, bytes] : traffic) bytes = static_cast<int64_t>(group.sum(static_cast<double>(bytes), "traffic"));
  return traffic;
}

// Elements of parameters: those that tensor ranks cut and those of which each holds a copy.
struct Elements {
  int64_t cut = 0, copied = 0;
  int64_t over(int64_t tensor) const { return cut + tensor * copied; }
  void operator+=(const Elements& more) {
    cut += more.cut;
    copied += more.copied;
  }
};
struct Weights {
  Elements narrow, wide;
  void operator+=(const Weights& more) {
    narrow += more.narrow;
    wide += more.wide;
  }
  int64_t bytes(int64_t tensor) const { return kNarrow * narrow.over(tensor) + kWide * wide.over(tensor); }
  int64_t grad_bytes(int64_t tensor) const { return kWide * (narrow.over(tensor) + wide.over(tensor)); }
};

constexpr int64_t kKeyWeights = 2 * kHeadDim * kModel;  // and of the values

// Without the experts.
Weights weights_of(char kind) {
  Weights w;
  w.wide.copied = kModel;  // the norm before it
  switch (kind) {
    case kMamba1:
      w.narrow.cut = kInner1 * (3 * kModel + kConv + 1 + (kRank + 2 * kState) + kRank);
      w.wide.cut = kInner1 * (kState + 2);
      break;
    case kMamba2:
      w.narrow.cut = kInner2 * (3 * kModel + kConv + 1) + kHeads * kModel;
      w.narrow.copied = 2 * kState * (kModel + kConv + 1);
      w.wide.cut = 3 * kHeads + kInner2;
      break;
    case kAttention:
      w.narrow.cut = 2 * kHeads * kHeadDim * kModel;
      w.narrow.copied = kKeyWeights;
      break;
    case kMlp: w.narrow.cut = 3 * kHidden * kModel; break;
    case kMoe: w.wide.copied += kExperts * kModel; break;
  }
  return w;
}
const Weights kEmbeddingWeights{.narrow = {.cut = kVocabulary * kModel}, .wide = {}};
const Weights kFinalNorm{.narrow = {}, .wide = {.copied = kModel}};

// Of one stage each: without the experts, and without an embedding that is the head on another stage too.
Weights weights_of(const Case& c) {
  Weights all = kFinalNorm;
  for (int i = 0; i < (c.tied ? 0 : 2); ++i) all += kEmbeddingWeights;
  for (const char kind : c.pattern) all += weights_of(kind);
  if (c.shared_keys) all.narrow.copied -= kKeyWeights;
  return all;
}

// Of experts, over the expert ranks together.
int64_t expert_elements(const Case& c) {
  return std::count(c.pattern.begin(), c.pattern.end(), kMoe) * kExperts * 2 * kExpertHidden * kModel;
}

// A sum over n ranks is 2 (n - 1) times what is summed, its halves (n - 1) times each.
int64_t data_bytes(const Case& c) {
  const int64_t others = c.replicas() - 1, tensor = c.degrees.tensor, M = c.microbatches();
  const Weights all = weights_of(c);
  const int64_t experts = (c.replicas() / c.degrees.expert - 1) * (c.expert_tensor ? 1 : tensor) * expert_elements(c);
  const int64_t grads = others * all.grad_bytes(tensor) + experts * kWide, values = others * all.bytes(tensor) + experts * kNarrow;
  const int64_t of_embedding = others * kEmbeddingWeights.bytes(tensor);
  const int64_t of_two_stages = c.tied ? 2 * c.replicas() - 1 : 0;
  const int64_t late = of_two_stages * (kEmbeddingWeights.grad_bytes(tensor) +
                                        (c.zero == 0 ? kEmbeddingWeights.grad_bytes(tensor) : kEmbeddingWeights.bytes(tensor)));
  switch (c.zero) {
    case 0: return 2 * grads + late;
    case 1: return grads + values + late;
    case 2: return M * grads + values + late;
    default: return M * (grads + 2 * values - of_embedding);  // which backward does not read
  }
}

int64_t context_bytes_of(char kind, const Case& c) {
  const int64_t n = c.degrees.context, tensor = c.degrees.tensor, gathers = n * (n - 1) * c.batch * c.pieces;
  const int64_t halo = 2 * gathers * (kConv - 1) * kNarrow;  // of a channel, there and back
  switch (kind) {
    case kMamba1: return halo * kInner1 + gathers * 3 * kInner1 * kState * kWide;
    case kMamba2: return halo * (kInner2 + tensor * 2 * kState) + gathers * kHeads * (1 + 2 * kHeadDim * kState) * kWide;
    case kAttention: {
      // With one piece a rank those before a block do not see it; with two everybody sees some of each.
      const int64_t moves = c.pieces == 1 ? n * (n - 1) / 2 : n * (n - 1);
      return moves * 2 * c.tokens() / n * tensor * kHeadDim * (2 * kNarrow + kWide);
    }
    case kMoe: {  // the balance loss: how many tokens of a row each expert got, from all ranks that have slices of the row
      const int64_t slices = c.sequence ? n * tensor : n, times = c.sequence ? 1 : tensor;
      return times * 2 * (slices - 1) * c.batch * kExperts * static_cast<int64_t>(sizeof(double));
    }
    default: return 0;
  }
}

int64_t context_bytes(const Case& c) {
  int64_t bytes = 0;
  for (const char kind : c.pattern) bytes += context_bytes_of(kind, c);
  return bytes;
}

int64_t tensor_bytes(const Case& c) {
  const int64_t ranks = c.degrees.tensor, others = ranks - 1, passes = c.recompute ? 6 : 4;
  const int64_t stream = others * c.tokens() * kModel;        // elements: what a gather, or half a sum, of the stream sends
  int64_t bytes = 2 * stream * kWide + 2 * stream * kNarrow;  // embedding; head
  bytes += others * ranks * 2 * c.tokens() * kWide;           // log-sum-exps and target logits
  for (const char kind : c.pattern) {
    if (kind != kMoe || c.expert_tensor) bytes += passes * stream * kNarrow;
    if (kind == kMoe && c.expert_tensor)  // routing weights there and back; with sequence parallelism the choices
      bytes += others * c.tokens() * kTopK * (2 * kWide + (c.sequence ? static_cast<int64_t>(sizeof(int64_t)) : 0));
    if (kind == kMamba1) bytes += passes * others * c.tokens() * (kRank + 2 * kState) * kNarrow;
    if (kind == kMamba2) bytes += passes * others * c.tokens() * kWide;  // a square sum
  }
  const Weights all = weights_of(c);
  const int64_t owed_by_slice = all.wide.copied + (c.expert_tensor ? 0 : expert_elements(c) / c.degrees.expert);
  const int64_t copies = all.narrow.copied + (c.sequence ? owed_by_slice : 0), sums = c.zero >= 2 ? c.microbatches() : 1;
  return bytes + sums * c.replicas() * 2 * others * copies * kWide;
}

int64_t pipeline_bytes(const Case& c) {
  const int64_t borders = c.degrees.pipeline * c.chunks - 1, holders = c.sequence ? 1 : c.degrees.tensor;
  const int64_t senders = c.degrees.tensor * c.replicas(), tensors = c.shared_keys ? 3 : 1;
  const int64_t keys = c.shared_keys ? 2 * c.tokens() * c.degrees.tensor * kHeadDim * kNarrow : 0;
  return borders * (2 * (holders * c.tokens() * kModel * kWide + keys) + senders * c.microbatches() * tensors * kHeader);
}

// `leaving`: rows that go to an expert of another rank.
int64_t expert_bytes(const Case& c, int64_t leaving) {
  const int64_t tellers = c.replicas() * c.degrees.tensor * c.microbatches();
  const int64_t counts = (c.degrees.expert - 1) * tellers * kExperts * static_cast<int64_t>(sizeof(int64_t));
  return std::count(c.pattern.begin(), c.pattern.end(), kMoe) * counts + 4 * leaving * kModel * kNarrow;
}

Traffic expected(const Case& c, int64_t leaving = 0) {
  return {{"pipeline", pipeline_bytes(c)},
          {"data", data_bytes(c)},
          {"context", context_bytes(c)},
          {"tensor", tensor_bytes(c)},
          {"expert", expert_bytes(c, leaving)}};
}

// On the first ranks of the world, as many as the mesh has.
template <class Body>
void on_mesh(const Case& c, const Body& body) {
  const bool member = testing::world().rank() < c.degrees.ranks();
  const Group group = testing::world().split(member ? 1 : 0);
  if (member) body(group);
}

constexpr const char* kAllKinds = "12AF";

std::vector<Case> cases() {
  std::vector<Case> all = {{.name = "OneRank", .pattern = kAllKinds, .degrees = {}}};
  for (const int zero : {0, 1, 2, 3}) {
    all.push_back({.name = fmt::format("Data2Zero{}", zero), .pattern = kAllKinds, .degrees = {.data = 2}, .zero = zero});
    all.push_back({.name = fmt::format("Data4Zero{}", zero), .pattern = kAllKinds, .degrees = {.data = 4}, .zero = zero, .batch = 8});
    all.push_back({.name = fmt::format("Data2Context2Zero{}Recompute", zero),
                   .pattern = kAllKinds,
                   .degrees = {.data = 2, .context = 2},
                   .zero = zero,
                   .recompute = true});
  }
  for (const int tensor : {2, 4})
    for (const bool sequence : {true, false})
      for (const bool recompute : {true, false})
        all.push_back({.name = fmt::format("Tensor{}{}{}", tensor, sequence ? "" : "WholeSequence", recompute ? "Recompute" : ""),
                       .pattern = kAllKinds,
                       .degrees = {.tensor = tensor},
                       .sequence = sequence,
                       .recompute = recompute});
  for (const int context : {2, 4})
    for (const int pieces : {1, 2})
      for (const char kind : {kMamba1, kMamba2, kAttention, kMlp})
        all.push_back({.name = fmt::format("Context{}Pieces{}Of{}", context, pieces, kind),
                       .pattern = std::string(1, kind),
                       .degrees = {.context = context},
                       .recompute = pieces == 2,
                       .pieces = pieces,
                       .rows = 2});
  all.push_back({.name = "Pipeline2", .pattern = kAllKinds, .degrees = {.pipeline = 2}});
  all.push_back(
      {.name = "Pipeline4ZeroBubble", .pattern = kAllKinds, .degrees = {.pipeline = 4}, .schedule = PipelineSchedule::kZeroBubble});
  all.push_back({.name = "Pipeline2Interleaved2",
                 .pattern = kAllKinds,
                 .degrees = {.pipeline = 2},
                 .schedule = PipelineSchedule::kInterleaved,
                 .chunks = 2});
  for (const int zero : {0, 1, 2})
    all.push_back({.name = fmt::format("Pipeline2Data2TiedZero{}", zero),
                   .pattern = kAllKinds,
                   .degrees = {.pipeline = 2, .data = 2},
                   .zero = zero,
                   .tied = true});
  all.push_back({.name = "Pipeline2Tensor2SharedKeys", .pattern = "AFAF", .degrees = {.pipeline = 2, .tensor = 2}, .shared_keys = true});
  for (const bool sequence : {true, false}) {
    const char* const suffix = sequence ? "" : "WholeSequence";
    all.push_back({.name = fmt::format("Pipeline2Tensor2{}", suffix),
                   .pattern = kAllKinds,
                   .degrees = {.pipeline = 2, .tensor = 2},
                   .zero = 1,
                   .sequence = sequence});
    all.push_back({.name = fmt::format("Context2Tensor2{}", suffix),
                   .pattern = kAllKinds,
                   .degrees = {.context = 2, .tensor = 2},
                   .zero = 2,
                   .sequence = sequence,
                   .pieces = 2});
  }
  return all;
}

class Traffics : public ::testing::TestWithParam<Case> {};

TEST_P(Traffics, AreWhatTheFormulasSay) {
  const Case& c = GetParam();
  on_mesh(c, [&](const Group& group) { EXPECT_EQ(measure(c, group, 1), expected(c)); });
}

INSTANTIATE_TEST_SUITE_P(Meshes, Traffics, ::testing::ValuesIn(cases()), [](const auto& info) { return info.param.name; });

// How many rows of the first step go to each expert, from the tokens of one data rank: what a rank that is alone with them finds.
std::vector<double> loads_of(const Case& c, int64_t data_rank) {
  Case alone = c;
  alone.degrees = {};
  alone.batch = c.batch / c.degrees.data;
  const Options options = options_of(alone);
  const RankModel model(options, Group(), {});
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), options.train.steps);
  const auto sequence = [&](int64_t i) { return one_document(i * c.degrees.data + data_rank, c.length); };
  TrainStep(model, optimizer, {.clip = options.train.clip}).run(0, make_batches(sequence, 0, {alone.batch, 1, 1}, model.mesh()));
  return model.declarations().tallies().front()->counts.to_vector<double>();
}

// Those whose expert is another rank's.
int64_t rows_leaving(const Case& c) {
  const int64_t held = kExperts / c.degrees.expert;
  double rows = 0;
  for (int64_t rank = 0; rank < c.degrees.data; ++rank) {
    const std::vector<double> loads = loads_of(c, rank);
    for (int64_t e = 0; e < kExperts; ++e)
      if (e / held != rank % c.degrees.expert) rows += loads[static_cast<size_t>(e)];
  }
  return static_cast<int64_t>(rows);
}

TEST(TrafficOfExperts, IsThatOfTheRowsThatLeaveTheirRank) {
  std::vector<Case> cases;
  for (const int zero : {0, 1})
    cases.push_back({.name = "Expert2", .pattern = "2E", .degrees = {.data = 2, .expert = 2}, .zero = zero, .recompute = zero == 1});
  cases.push_back({.name = "Expert4", .pattern = "2E", .degrees = {.data = 4, .expert = 4}});
  cases.push_back({.name = "Expert2OfData4", .pattern = "2E", .degrees = {.data = 4, .expert = 2}, .zero = 1});
  for (const bool sequence : {true, false})
    for (const bool expert_tensor : {true, false})
      cases.push_back({.name = "Expert2Tensor2",
                       .pattern = "E",
                       .degrees = {.data = 2, .tensor = 2, .expert = 2},
                       .sequence = sequence,
                       .expert_tensor = expert_tensor});
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const bool by_slice = c.sequence && !c.expert_tensor;  // else each tensor rank sends all rows
    const int64_t leaving = rows_leaving(c) * (by_slice ? 1 : c.degrees.tensor), tokens = c.tokens() * kTopK;
    EXPECT_NE(leaving, tokens * (c.degrees.expert - 1) / c.degrees.expert) << "even: not what is to be shown";
    on_mesh(c, [&](const Group& group) { EXPECT_EQ(measure(c, group, 0), expected(c, leaving)); });
  }
}

// What state-space layers send over context ranks does not grow with the sequence.
TEST(TrafficOfStateSpaceLayers, IsTheSameAt4kAnd64kTokens) {
  for (const char kind : {kMamba1, kMamba2})
    for (const int context : {2, 4}) {
      Case c{.name = "", .pattern = std::string(1, kind), .degrees = {.context = context}, .length = 4096, .batch = 1};
      on_mesh(c, [&](const Group& group) {
        const int64_t at_4k = measure_here(c, group, 0)["context"];
        c.length = 65536;
        EXPECT_EQ(measure_here(c, group, 0)["context"], at_4k);
        EXPECT_EQ(at_4k * context, context_bytes(c));
      });
    }
}

}  // namespace
}  // namespace ropewalk
