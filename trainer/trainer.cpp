#include "trainer/trainer.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "data/error.h"
#include "kernels/tensor/allocator.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/config/words.h"
#include "trainer/logging.h"

namespace ropewalk {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::ordered_json;

constexpr int64_t kMostSkippedInARow = 20;  // non-finite steps after which a run has diverged

ordered_json number(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); }

Dataset load_agreed(const Options& options, const Group& world) {
  Dataset data;
  agree(world, [&] { data = load_dataset(options.data, *make_tokenizer(options.tokenizer), options.train.seed); });
  return data;
}

}  // namespace

Trainer::Trainer(const Config& config, const Group& world)
    : config_(config),
      options_(config.options),
      world_(world),
      data_(load_agreed(options_, world)),
      model_(options_, world, resolve_mesh(config, world.size())),
      optimizer_(options_.optimizer, model_.declarations(), model_.store(), options_.train.steps),
      train_step_(model_, optimizer_, {.clip = options_.train.clip}),
      folder_(options_.run.dir) {
  agree(world_, [this] { resume(); });
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
  optimizer_.set_updates(std::stoll(reader.meta().notes.at("updates")));
  step_ = saved_step_ = reader.meta().step;
}

void Trainer::check_resumable(const CheckpointReader& reader, const std::string& folder) const {
  const CheckpointMeta& meta = reader.meta();
  const bool branch = options_.run.resume == "branch";
  const auto changes = changes_that_need_branch(parse_config(meta.config, folder, {}), config_);
  if (!changes.empty() && !branch)
    throw config_.error("run.resume", "{} differs in {}; run.resume=branch goes on all the same", folder, join(changes, ", "));
  const std::string digest = fmt::format("{:016x}", data_.train->digest());
  if (!branch && meta.notes.at("data") != digest)
    throw DataError(fmt::format("data.source: is not what {} was trained on (digest {}, then {}); run.resume=branch goes on all the same",
                                folder, digest, meta.notes.at("data")));
  if (meta.step > options_.train.steps)
    throw config_.error("train.steps", "expected at least the {} steps of {}, given {}", meta.step, folder, options_.train.steps);
}

void Trainer::run() {
  if (finished() && saved_step_ == step_) {
    if (leader()) fmt::print("{}: finished already, {} of {} steps\n", folder_.path(), step_, options_.train.steps);
    return;
  }
  agree(world_, [this] { begin(); });
  Progress progress(step_, options_.train.steps);
  const BatchPlan plan{options_.train.batch, options_.train.micro_batch, options_.parallel.context_runs};
  const auto sequence = [this](int64_t i) { return data_.train->at(i); };
  BatchLoader loader([&](int64_t step) { return make_batches(sequence, step, plan, model_.mesh()); }, step_, options_.train.steps);
  while (!finished()) {
    const auto begun = Clock::now();
    const StepReport report = step(loader.next());
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    const std::optional<Evaluation> evaluation = evaluate_if_due();
    log(report, seconds, evaluation);
    if (leader()) show(progress, report, seconds, evaluation);
    if (finished() || due(options_.checkpoint.every)) save();
  }
}

void Trainer::begin() {
  if (!leader()) return;
  folder_.begin(config_.resolved, world_.size(), step_);
  log_to_file(folder_.log());
  spdlog::info("{}: {} parameters on this rank, {} train tokens, {} validation rows, from step {}", folder_.path(),
               model_.store().master().numel(), data_.train->tokens(), data_.validation ? data_.validation->count() : 0, step_);
}

std::optional<Evaluation> Trainer::evaluate_if_due() const {
  if (!data_.validation || !(finished() || due(options_.train.eval_every))) return std::nullopt;
  return evaluate(model_, data_, options_.train.micro_batch);
}

void Trainer::show(Progress& progress, const StepReport& report, double seconds, const std::optional<Evaluation>& evaluation) const {
  progress.show({.step = step_,
                 .loss = report.loss,
                 .grad_norm = report.grad_norm,
                 .tokens_per_second = static_cast<double>(tokens_a_step()) / seconds,
                 .memory_bytes = Allocator::host().stats().peak});
  if (evaluation) spdlog::info("step {}: {}", step_, evaluation->describe());
}

StepReport Trainer::step(const std::vector<Microbatch>& batches) {
  const StepReport report = train_step_.run(step_, batches);
  skipped_in_a_row_ = report.skipped ? skipped_in_a_row_ + 1 : 0;
  ++step_;
  if (report.skipped && leader()) spdlog::warn("step {}: gradient is not finite; nothing updated", step_);
  if (skipped_in_a_row_ >= kMostSkippedInARow)
    throw Error(
        4,
        fmt::format("step {}: diverged: {} steps in a row without a finite gradient; resume from a checkpoint with a smaller optimizer.lr",
                    step_, skipped_in_a_row_),
        Error::Reach::kEveryRank);
  return report;
}

void Trainer::log(const StepReport& report, double seconds, const std::optional<Evaluation>& evaluation) {
  ordered_json metrics = {{"step", step_}, {"tokens", step_ * tokens_a_step()}, {"loss", number(report.loss)}};
  if (evaluation) {
    metrics["val_loss"] = number(evaluation->loss());
    if (const auto bits = evaluation->bits_per_byte()) metrics["val_bits_per_byte"] = number(*bits);
    if (const auto accuracy = evaluation->accuracy()) metrics["val_accuracy"] = number(*accuracy);
  }
  metrics["grad_norm"] = number(report.grad_norm);
  for (const auto& [kind, norm] : report.grad_norm_of) metrics[fmt::format("grad_norm/{}", name_of(kind))] = number(norm);
  if (report.skipped) metrics["skipped"] = true;
  if (report.moe) {
    metrics["moe/aux_loss"] = number(report.moe->aux_loss);
    metrics["moe/load_max_over_mean"] = number(report.moe->load_max_over_mean);
  }
  for (size_t group = 0; group < optimizer_.groups().groups().size(); ++group)
    metrics["lr/" + optimizer_.groups().groups()[group].name] = number(optimizer_.lr(group, step_ - 1));
  metrics["tokens_per_second"] = number(static_cast<double>(tokens_a_step()) / seconds);
  metrics["step_ms"] = number(seconds * 1000);
  metrics["mfu"] = nullptr;  // the peak of this host is not measured yet
  metrics["memory_peak_bytes"] = static_cast<int64_t>(world_.max(static_cast<double>(Allocator::host().stats().peak), "memory"));
  for (const Axis axis : kAxes) {
    const Group& group = axis == Axis::kData ? model_.mesh().tokens() : model_.mesh().axis(axis);
    const int64_t sent = group.bytes_sent(), before = std::exchange(bytes_sent_[static_cast<size_t>(axis)], sent);
    metrics[fmt::format("comm_bytes/{}", name_of(axis))] =
        static_cast<int64_t>(world_.sum(static_cast<double>(sent - before), "comm_bytes"));
  }
  if (leader()) folder_.append(metrics);
}

void Trainer::save() {
  CheckpointMeta meta{
      .step = step_,
      .tokens = step_ * tokens_a_step(),
      .config = config_.resolved,
      .mesh = fmt::format("pipeline {}, data {}, context {}, tensor {}", model_.mesh().size(Axis::kPipeline),
                          model_.mesh().size(Axis::kData), model_.mesh().size(Axis::kContext), model_.mesh().size(Axis::kTensor)),
      .version = ROPEWALK_VERSION,
      .notes = {{"updates", std::to_string(optimizer_.updates())}, {"data", fmt::format("{:016x}", data_.train->digest())}}};
  const std::string folder = write_checkpoint(folder_.checkpoints(), meta, boxes_to_save(model_.store(), optimizer_), world_);
  saved_step_ = step_;
  agree(world_, [this] {
    if (leader()) retain_checkpoints(folder_.checkpoints(), options_.checkpoint.keep, options_.checkpoint.keep_every);
  });
  if (leader()) spdlog::info("step {}: saved {}", step_, folder);
}

}  // namespace ropewalk
