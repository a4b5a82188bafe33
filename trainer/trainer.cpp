#include "trainer/trainer.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>

#include "data/error.h"
#include "kernels/ceilings/ceilings.h"
#include "kernels/tensor/allocator.h"
#include "kernels/tensor/memory.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/config/words.h"
#include "trainer/logging.h"
#include "trainer/stage_cut.h"
#include "trainer/trace_file.h"

namespace ropewalk {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostSkippedInARow = 20;  // then a run has diverged

// Measured by all ranks at once: they share the machine as in a step.
double peak_flops(const Options& options, const Group& world) {
  if (options.run.peak_flops) return *options.run.peak_flops;
  return world.sum(measure_ceilings().of(compute_dtype(options.train.precision)), "peak");
}

// What a checkpoint says beside its tensors.
const std::string& note(const CheckpointReader& reader, const std::string& folder, const std::string& key) {
  const auto found = reader.meta().notes.find(key);
  if (found == reader.meta().notes.end())
    throw CheckpointError("{}: holds no note \"{}\"; it is no checkpoint of a training run", folder, key);
  return found->second;
}

int64_t updates_of(const CheckpointReader& reader, const std::string& folder) {
  const std::string& text = note(reader, folder, "updates");
  int64_t updates = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), updates);
  if (error != std::errc() || end != text.data() + text.size() || updates < 0)
    throw CheckpointError("{}: note \"updates\": expected a number, found {}", folder, text);
  return updates;
}

Dataset load_agreed(const Options& options, const Group& world) {
  Dataset data;
  agree(world, [&] { data = load_dataset(options.data, *make_tokenizer(options.tokenizer), options.train.seed); });
  return data;
}

}  // namespace

Trainer::Trainer(const Config& config, const Group& world, StopSignals& signals)
    : config_(config),
      options_(config.options),
      world_(world),
      data_(load_agreed(options_, world)),
      model_(options_, world, resolve_mesh(config, world.size())),
      optimizer_(options_.optimizer, model_.declarations(), model_.store(), options_.train.steps),
      train_step_(model_, optimizer_, {.clip = options_.train.clip, .skip_spikes = options_.train.skip_spikes}),
      folder_(options_.run.dir),
      checkpoints_(folder_.checkpoints(), options_.checkpoint, world_),
      metrics_(model_, optimizer_, {.rows = options_.train.batch, .length = options_.data.seq_len}, peak_flops(options_, world_)),
      signals_(signals) {
  agree(world_, [this] { resume(); });
  model_.store().gather();
}

void Trainer::resume() {
  const std::string& how = options_.run.resume;
  const bool named = how != "auto" && how != "never" && how != "branch";
  const std::optional<std::string> folder = named ? how : newest_checkpoint(folder_.checkpoints());
  if (!folder) return;
  if (how == "never")
    throw config_.error("run.resume", "never, but {} holds checkpoints; choose another run.dir or remove it", folder_.path());
  CheckpointReader reader(*folder);
  check_resumable(reader, *folder);
  load_weights(reader, model_.store());
  load_optimizer(reader, model_.store(), optimizer_);
  optimizer_.set_updates(updates_of(reader, *folder));
  if (const auto history = reader.meta().notes.find("spikes"); train_step_.spikes() && history != reader.meta().notes.end())
    train_step_.spikes()->restore(history->second);
  step_ = resumed_at_ = reader.meta().step;
}

void Trainer::check_resumable(const CheckpointReader& reader, const std::string& folder) const {
  const CheckpointMeta& meta = reader.meta();
  const bool branch = options_.run.resume == "branch";
  const auto changes = changes_that_need_branch(parse_config(meta.config, folder, {}), config_);
  if (!changes.empty() && !branch)
    throw config_.error("run.resume", "{} differs in {}; run.resume=branch goes on all the same", folder, join(changes, ", "));
  const std::string digest = fmt::format("{:016x}", data_.train->digest());
  if (const std::string& before = note(reader, folder, "data"); !branch && before != digest)
    throw DataError(fmt::format("data.source: is not what {} was trained on (digest {}, then {}); run.resume=branch goes on all the same",
                                folder, digest, before));
  if (meta.step > options_.train.steps)
    throw config_.error("train.steps", "expected at least the {} steps of {}, given {}", meta.step, folder, options_.train.steps);
}

void Trainer::run() {
  if (finished() && resumed_at_ == step_) {
    if (leader()) fmt::print("{}: finished already, {} of {} steps\n", folder_.path(), step_, options_.train.steps);
    return;
  }
  agree(world_, [this] { begin(); });
  try {
    train();
  } catch (const Error& error) {
    // What was saved last is as good as before, whatever went wrong since.
    if (error.reach() == Error::Reach::kEveryRank) checkpoints_.finish();
    throw;
  }
}

void Trainer::train() {
  Progress progress(step_, options_.train.steps);
  const BatchPlan plan{options_.train.batch, options_.train.micro_batch, options_.parallel.context_runs};
  const auto sequence = [this](int64_t i) { return data_.train->at(i); };
  BatchLoader loader([&](int64_t step) { return make_batches(sequence, step, plan, model_.mesh()); }, step_, options_.train.steps);
  while (!finished()) {
    Timeline* const timeline = traced();
    const int stop = train_one_step(progress, loader, timeline);
    if (timeline && (stop || finished() || !traced())) write_trace();
    if (stop && !finished())
      throw Error(stop, fmt::format("step {} of {}: told to stop, saved; the same command goes on from here", step_, options_.train.steps),
                  Error::Reach::kEveryRank);
  }
}

// With all that hangs on it. Returns the exit code of a run that is to stop, else 0.
int Trainer::train_one_step(Progress& progress, BatchLoader& loader, Timeline* timeline) {
  std::optional<Recording> recording;
  if (timeline) recording.emplace(*timeline);
  StepFacts facts = timed_step(loader);
  {
    const Phase phase("evaluation");
    facts.evaluation = evaluate_if_due();
  }
  const int stop = meet(facts);
  if (leader()) show(progress, facts);
  const Phase phase("save");
  if (finished() || stop)
    checkpoints_.save_last(meta(), boxes_to_save(model_.store(), optimizer_));
  else if (due(options_.checkpoint.every))
    checkpoints_.save(meta(), boxes_to_save(model_.store(), optimizer_));
  return stop;
}

// Steps [from, from + steps) of run.trace are recorded; after the last of them that is written.
Timeline* Trainer::traced() {
  const auto& trace = options_.run.trace;
  if (!trace || step_ + 1 < trace->from || step_ + 1 >= trace->from + trace->steps) return nullptr;
  if (!timeline_) timeline_.emplace();
  return &*timeline_;
}

void Trainer::write_trace() {
  folder_.write_trace(chrome_trace(*timeline_, world_.rank()), world_.rank());
  timeline_.reset();
}

StepFacts Trainer::timed_step(BatchLoader& loader) {
  const Phase phase("step");
  const auto begun = Clock::now();
  StepFacts facts{.tokens_a_step = options_.train.batch * options_.data.seq_len};
  const int64_t every = options_.train.health_every;
  if (every > 0 && (step_ + 1) % every == 0) facts.health.emplace();
  const BytesByAxis before = bytes_sent(model_.mesh());
  facts.report = step(loader.next(), facts.health ? &*facts.health : nullptr);
  const BytesByAxis after = bytes_sent(model_.mesh());
  std::transform(after.begin(), after.end(), before.begin(), facts.bytes_sent.begin(), std::minus());
  facts.step = step_;
  facts.seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  return facts;
}

// The step's border, where the ranks hear of each other. Returns the exit code of a run that is to stop, else 0.
int Trainer::meet(const StepFacts& facts) {
  const Phase phase("step border");
  Census census;
  signals_.vote(census);
  checkpoints_.vote(census);
  metrics_.put(census, facts);
  census.gather(world_);
  if (leader()) folder_.append(metrics_.object(facts, census));
  checkpoints_.publish_if_written(census);
  return signals_.verdict(census);
}

void Trainer::begin() {
  if (!leader()) return;
  folder_.begin(config_.resolved, world_.size(), step_);
  log_to_file(folder_.log());
  spdlog::info("{}: {} parameters on this rank, {} train tokens, {} validation rows, from step {}", folder_.path(), model_.store().numel(),
               data_.train->tokens(), data_.validation ? data_.validation->count() : 0, step_);
  if (model_.device().is_cuda()) spdlog::info("computes on {}", describe(model_.device()));
  if (model_.mesh().size(Axis::kPipeline) > 1) spdlog::info("{}", describe_pipeline(options_, model_.mesh().degrees()));
}

std::optional<Evaluation> Trainer::evaluate_if_due() const {
  if (!data_.validation || !(finished() || due(options_.train.eval_every))) return std::nullopt;
  return evaluate(model_, data_, options_.train.micro_batch);
}

void Trainer::show(Progress& progress, const StepFacts& facts) const {
  progress.show({.step = step_,
                 .loss = facts.report.loss,
                 .grad_norm = facts.report.grad_norm,
                 .tokens_per_second = static_cast<double>(facts.tokens_a_step) / facts.seconds,
                 .memory_bytes = Allocator::host().stats().peak});
  if (facts.evaluation) spdlog::info("step {}: {}", step_, facts.evaluation->describe());
}

StepReport Trainer::step(const std::vector<Microbatch>& batches, Health* health) {
  const StepReport report = train_step_.run(step_, batches, health);
  skipped_in_a_row_ = report.skipped ? skipped_in_a_row_ + 1 : 0;
  ++step_;
  if (report.skipped && leader())
    spdlog::warn("step {}: {}: loss {:.4f}, gradient norm {:.4f}; nothing updated", step_, report.skipped, report.loss, report.grad_norm);
  if (skipped_in_a_row_ >= kMostSkippedInARow)
    throw Error(4,
                fmt::format("step {}: diverged: {} steps in a row were skipped ({}); resume from a checkpoint with a smaller optimizer.lr",
                            step_, skipped_in_a_row_, report.skipped),
                Error::Reach::kEveryRank);
  return report;
}

CheckpointMeta Trainer::meta() {
  CheckpointMeta meta{
      .step = step_,
      .tokens = step_ * options_.train.batch * options_.data.seq_len,
      .config = config_.resolved,
      .mesh = model_.mesh().degrees().describe(),
      .version = ROPEWALK_VERSION,
      .notes = {{"updates", std::to_string(optimizer_.updates())}, {"data", fmt::format("{:016x}", data_.train->digest())}}};
  if (train_step_.spikes()) meta.notes["spikes"] = train_step_.spikes()->state();
  return meta;
}

}  // namespace ropewalk
