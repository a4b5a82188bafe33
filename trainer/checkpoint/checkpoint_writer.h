// Writes a checkpoint: each rank its shard, then one rank the manifest and the name. At once, or beside the training.
#pragma once

#include <atomic>
#include <exception>
#include <thread>

#include "parallel/comm/group.h"
#include "trainer/checkpoint/manifest.h"

namespace ropewalk {

// Collective over `all`. Writes the boxes that the ranks own into <root>/step-00000100, complete or not at all, and lets <root>/latest name
// it; a checkpoint of the same step is replaced. Every element of every tensor is owned by exactly one rank. Boxes without elements are
// left out. An error on one rank is every rank's error. Returns the folder.
std::string write_checkpoint(const std::string& root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all);

// The same in two halves. start() copies the boxes, at the memory's speed, and a thread of each rank writes its copy; the thread never
// communicates. Once the ranks have agreed, by whatever they tell each other anyway, that all of them have written(), finish() publishes.
// One that is not finished leaves what a killed job leaves: nothing under a checkpoint's name.
class CheckpointSave {
 public:
  // Collective: no rank writes before rank 0 has made the folder.
  CheckpointSave(std::string root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all);
  ~CheckpointSave();
  CheckpointSave(const CheckpointSave&) = delete;
  CheckpointSave& operator=(const CheckpointSave&) = delete;

  int64_t step() const { return meta_.step; }
  // Whether this rank's thread is through, well or with an error. Never waits.
  bool written() const { return written_.load(std::memory_order_acquire); }
  // Collective. Waits for what is not written yet. Returns the folder; an error on one rank is every rank's error.
  std::string finish();

 private:
  std::string root_;
  CheckpointMeta meta_;
  Group all_;
  std::vector<Box> copies_;
  std::string table_;           // of what this rank wrote
  std::exception_ptr failure_;  // where it could not
  std::atomic<bool> written_ = false;
  std::thread thread_;
};

}  // namespace ropewalk
