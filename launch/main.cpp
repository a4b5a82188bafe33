// The command line of ropewalk.
#include <CLI/CLI.hpp>

#include "launch/verbs.h"
#include "trainer/logging.h"

namespace {

using namespace ropewalk;

constexpr int kWrongArguments = 2;

void add_config_arguments(CLI::App& verb, ConfigArguments& arguments) {
  verb.add_option("CONFIG", arguments.file, "YAML file")->required();
  verb.add_option("OVERRIDES", arguments.overrides, "key.path=value ...");
}

void add_tokenize_arguments(CLI::App& verb, TokenizeArguments& arguments) {
  const std::map<std::string, DocumentEnd> ends = {
      {"file", DocumentEnd::kFile}, {"form_feed", DocumentEnd::kFormFeed}, {"blank_line", DocumentEnd::kBlankLine}};
  verb.add_option("TEXT", arguments.text, "file or folder")->required();
  verb.add_option("PREFIX", arguments.prefix, "writes PREFIX.idx and PREFIX.bin")->required();
  verb.add_option("--documents", arguments.documents, "what ends a document (default: file)")
      ->transform(CLI::CheckedTransformer(ends).description("file, form_feed or blank_line"));
  CLI::Option* tokenizer = verb.add_option("--tokenizer", arguments.tokenizer, "bytes, or a SentencePiece model")->capture_default_str();
  CLI::Option* train = verb.add_flag("--train", arguments.train, "train a SentencePiece model on the text first: PREFIX.model");
  CLI::Option* vocab = verb.add_option("--vocab", arguments.training.vocabulary, "pieces of the model to train");
  CLI::Option* type = verb.add_option("--model-type", arguments.training.model_type, "of the model to train")->capture_default_str();
  train->excludes(tokenizer)->needs(vocab);
  vocab->needs(train)->check(CLI::PositiveNumber);
  type->needs(train)->check(CLI::IsMember({"unigram", "bpe"}));
}

}  // namespace

int main(int argc, char** argv) {
  start_logging();
  const Job job(&argc, &argv);
  CLI::App app("Trains hybrid state-space and attention language models. Verbs marked * run under mpirun too.", "ropewalk");
  app.set_version_flag("--version", ROPEWALK_VERSION);
  app.require_subcommand(1);

  ConfigArguments config;
  std::function<void()> verb;
  CLI::App* train_verb = app.add_subcommand("train", "* train, resuming from the run folder's newest checkpoint");
  add_config_arguments(*train_verb, config);
  train_verb->callback([&] { verb = [&] { train(job, config); }; });

  CLI::App* eval_verb = app.add_subcommand("eval", "* validation loss of a run's newest checkpoint");
  add_config_arguments(*eval_verb, config);
  eval_verb->callback([&] { verb = [&] { eval(job, config); }; });

  app.add_subcommand("doctor", "this machine and its device, and every op on the device against the host")->callback([&] {
    verb = doctor;
  });

  BenchOptions steps;
  CLI::App* bench_verb =
      app.add_subcommand("bench", "* time of a step on random tokens, as a whole and op by op, beside this machine's ceilings");
  add_config_arguments(*bench_verb, config);
  bench_verb->add_option("--steps", steps.steps, "timed; the median counts")->capture_default_str()->check(CLI::PositiveNumber);
  bench_verb->add_option("--warmup", steps.warmup, "steps before them")->capture_default_str()->check(CLI::NonNegativeNumber);
  bench_verb->callback([&] { verb = [&] { bench(job, config, steps); }; });

  CLI::App* params_verb = app.add_subcommand("params", "which parameter falls in which optimizer group");
  add_config_arguments(*params_verb, config);
  params_verb->callback([&] { verb = [&] { params(config); }; });

  std::string checkpoint;
  GenerateOptions sampling;
  CLI::App* generate_verb = app.add_subcommand("generate", "text from a checkpoint");
  generate_verb->add_option("CHECKPOINT", checkpoint, "checkpoint folder")->required();
  generate_verb->add_option("--prompt", sampling.prompt, "text to go on from");
  generate_verb->add_option("--tokens", sampling.tokens, "at most this many")->capture_default_str()->check(CLI::NonNegativeNumber);
  generate_verb->add_option("--temperature", sampling.temperature, "0: always the likeliest")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  generate_verb->add_option("--top-p", sampling.top_p, "draw from the likeliest tokens with this much probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  generate_verb->add_option("--seed", sampling.seed, "of the draws")->capture_default_str();
  generate_verb->callback([&] { verb = [&] { generate(checkpoint, sampling); }; });

  InspectArguments inspected;
  CLI::App* inspect_verb = app.add_subcommand("inspect", "what a checkpoint holds");
  inspect_verb->add_option("CHECKPOINT", inspected.checkpoint, "checkpoint folder")->required();
  inspect_verb->add_flag("--verify", inspected.verify, "read and check every byte");
  inspect_verb->add_flag("--digest", inspected.digest, "one hash of the weights and one of the optimizer state, whatever mesh wrote them");
  inspect_verb->callback([&] { verb = [&] { inspect(inspected); }; });

  TokenizeArguments tokenized;
  CLI::App* tokenize_verb = app.add_subcommand("tokenize", "text to an indexed dataset; trains a tokenizer for it");
  add_tokenize_arguments(*tokenize_verb, tokenized);
  tokenize_verb->callback([&] { verb = [&] { tokenize(tokenized); }; });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongArguments;
  }
  return job.run(verb);
}
