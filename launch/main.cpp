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

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongArguments;
  }
  return job.run(verb);
}
