// A run is a folder that explains itself: config.yaml (resolved), environment.txt, metrics.jsonl, events.out.tfevents.*,
// log.txt, checkpoints/, perhaps traces.
// Only the first rank of a job writes it.
#pragma once

#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "trainer/tensorboard.h"

namespace ropewalk {

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string log() const { return path_ + "/log.txt"; }

  // Makes the folder, writes what describes the run, and cuts metrics.jsonl back to its lines up to `step`, so that a resumed run
  // continues the file as if it had never stopped.
  void begin(const std::string& config, int ranks, int64_t step);
  // What the rank did at the steps that a trace was asked for; every rank calls it.
  void write_trace(const std::string& trace, int rank) const;
  // Appends one step's object as a line, and its numbers to TensorBoard's file; numbers round-trip, non-finite ones are null.
  void append(const nlohmann::ordered_json& metrics);

 private:
  void cut_metrics(int64_t step) const;

  std::string path_;
  std::ofstream metrics_;
  TensorBoard events_;
};

}  // namespace ropewalk
