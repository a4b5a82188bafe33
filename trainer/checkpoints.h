// The checkpoints of a run while it goes on: made beside the training, published at a step border, kept as long as the configuration says.
// One that cannot be written costs a warning, unless it is the last.
#pragma once

#include <memory>

#include "trainer/census.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/options.h"

namespace ropewalk {

class Checkpoints {
 public:
  Checkpoints(std::string root, const CheckpointOptions& options, const Group& world)
      : root_(std::move(root)), options_(options), world_(world) {}

  // Collective. Begins one; waits for the one before.
  void save(const CheckpointMeta& meta, const std::vector<Box>& mine);
  // Collective. Makes one, if it is not there yet, and waits for it: an error is thrown.
  void save_last(const CheckpointMeta& meta, const std::vector<Box>& mine);

  // At a step border: this rank's word in the census, and, where all have written, the publishing.
  void vote(Census& census);
  void publish_if_written(const Census& census);
  // Collective. Waits for the one under way, if any; it may fail with a warning.
  void finish();

 private:
  void publish(int64_t step, const std::function<std::string()>& last_part);
  void warn(int64_t step, const Error& error) const;

  std::string root_;
  CheckpointOptions options_;
  Group world_;
  std::unique_ptr<CheckpointSave> under_way_;
  int64_t newest_ = -1;  // step of the one published last
  size_t written_ = 0;   // place in the census
};

}  // namespace ropewalk
