#include "launch/verbs.h"

#include <fmt/format.h>

#include <cstdio>

#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/describe.h"
#include "trainer/doctor/doctor.h"
#include "trainer/evaluate.h"
#include "trainer/state.h"
#include "trainer/trainer.h"

namespace ropewalk {
namespace {

// The checkpoint that a run would go on from.
std::string checkpoint_of(const RunOptions& run) {
  if (run.resume != "auto" && run.resume != "branch") return run.resume;
  const auto newest = newest_checkpoint(run.dir + "/checkpoints");
  if (!newest) throw Error(3, fmt::format("run.dir: {}: holds no checkpoint; train first, or name one by run.resume=FOLDER", run.dir));
  return *newest;
}

}  // namespace

void train(const Job& job, const ConfigArguments& arguments) {
  const Config config = load_config(arguments.file, arguments.overrides);
  require_trainable(config);
  StopSignals signals;
  Trainer(config, job.world(config.options.run.timeout), signals).run();
}

void bench(const Job& job, const ConfigArguments& arguments, const BenchOptions& options) {
  const Config config = load_config(arguments.file, arguments.overrides);
  require(config, {"data.seq_len", "train.batch"}, "for a step");
  const Group world = job.world(config.options.run.timeout);
  const std::string table = bench(config, options, world);
  if (world.rank() == 0) fmt::print("{}", table);
}

void doctor() {
  constexpr int kDeviceFailed = 5;
  const Diagnosis diagnosis = diagnose();
  fmt::print("{}", diagnosis.report);
  if (!diagnosis.healthy) throw Error(kDeviceFailed, "doctor: an op does not compute what it should; the table says which");
}

void eval(const Job& job, const ConfigArguments& arguments) {
  const Config config = load_config(arguments.file, arguments.overrides);
  require_trainable(config);
  const Options& options = config.options;
  const Group world = job.world(options.run.timeout);
  const RankModel model(options, world, resolve_mesh(config, world.size()));
  Dataset data;
  agree(world, [&] {
    data = load_dataset(options.data, *make_tokenizer(options.tokenizer), options.train.seed);
    if (!data.validation) throw config.error("data.validation", "nothing is held out; give a share, or data.validation_source");
    CheckpointReader reader(checkpoint_of(options.run));
    load_weights(reader, model.store());
  });
  model.store().gather();
  const Evaluation evaluation = evaluate(model, data, options.train.micro_batch);
  const std::string over =
      evaluation.bytes ? fmt::format("{} bytes", *evaluation.bytes) : fmt::format("{:.0f} targets", evaluation.targets);
  if (world.rank() == 0) fmt::print("{}  over {}\n", evaluation.describe(), over);
}

void params(const ConfigArguments& arguments) {
  fmt::print("{}", describe_parameters(load_config(arguments.file, arguments.overrides).options));
}

void generate(const std::string& checkpoint, const GenerateOptions& options) {
  CheckpointReader reader(checkpoint);
  Config config = parse_config(reader.meta().config, checkpoint, {});
  config.options.parallel = {};
  config.options.run.device = DeviceChoice::kCpu;  // where states of decoding live so far
  const auto tokenizer = make_tokenizer(config.options.tokenizer);
  const RankModel model(config.options, Group(), {});
  load_weights(reader, model.store());
  generate(model, *tokenizer, options, [](const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  });
  fmt::print("\n");
}

void inspect(const InspectArguments& arguments) {
  CheckpointReader reader(arguments.checkpoint);
  if (arguments.verify) reader.verify();
  if (arguments.digest)
    fmt::print("weights {}\noptimizer {}\n", weights_digest(reader), optimizer_digest(reader));
  else
    fmt::print("{}{}", describe_checkpoint(reader, arguments.checkpoint), arguments.verify ? "every byte is as it was written\n" : "");
}

void tokenize(const TokenizeArguments& arguments) {
  TokenizeOptions options{.text = {.path = arguments.text, .documents = arguments.documents, .key = "TEXT"},
                          .prefix = arguments.prefix,
                          .tokenizer = {},
                          .training = {}};
  if (arguments.train)
    options.training = arguments.training;
  else if (arguments.tokenizer != "bytes")
    options.tokenizer = {.kind = TokenizerOptions::kSentencePiece, .path = arguments.tokenizer};
  const TokenizeReport report = tokenize(options);
  fmt::print("{0}.idx, {0}.bin: {1} documents, {2} tokens for {3} bytes of text, {4:.3f} bytes a token\n", options.prefix, report.documents,
             report.tokens, report.bytes, static_cast<double>(report.bytes) / static_cast<double>(report.tokens));
}

}  // namespace ropewalk
