#include "trainer/checkpoints.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "trainer/checkpoint/checkpoint_folder.h"

namespace ropewalk {

void Checkpoints::publish(int64_t step, const std::function<std::string()>& last_part) {
  const std::string folder = last_part();
  newest_ = step;
  agree(world_, [&] {
    if (world_.rank() == 0) retain_checkpoints(root_, options_.keep, options_.keep_every);
  });
  if (world_.rank() == 0) spdlog::info("step {}: saved {}", step, folder);
}

void Checkpoints::warn(int64_t step, const Error& error) const {
  if (world_.rank() == 0) spdlog::warn("step {}: not saved: {}; training goes on, the checkpoints before it are whole", step, error.what());
}

void Checkpoints::finish() {
  if (!under_way_) return;
  const std::unique_ptr<CheckpointSave> save = std::move(under_way_);
  try {
    publish(save->step(), [&] { return save->finish(); });
  } catch (const CommError&) {
    throw;
  } catch (const Error& error) {
    warn(save->step(), error);
  }
}

void Checkpoints::save(const CheckpointMeta& meta, const std::vector<Box>& mine) {
  finish();
  try {
    if (options_.async)
      under_way_ = std::make_unique<CheckpointSave>(root_, meta, mine, world_);
    else
      publish(meta.step, [&] { return write_checkpoint(root_, meta, mine, world_); });
  } catch (const CommError&) {
    throw;
  } catch (const Error& error) {
    warn(meta.step, error);
  }
}

void Checkpoints::save_last(const CheckpointMeta& meta, const std::vector<Box>& mine) {
  if (newest_ == meta.step) return;
  const bool begun = under_way_ && under_way_->step() == meta.step;
  if (!begun) finish();
  publish(meta.step, [&] { return begun ? std::exchange(under_way_, nullptr)->finish() : write_checkpoint(root_, meta, mine, world_); });
}

void Checkpoints::vote(Census& census) { written_ = census.put(under_way_ && under_way_->written()); }

void Checkpoints::publish_if_written(const Census& census) {
  if (census.min(written_) > 0) finish();
}

}  // namespace ropewalk
