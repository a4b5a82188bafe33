// The folder that holds a run's checkpoints: step-00000100/, step-00000200/, ... and `latest`, a text file that names one of them.
//
// A name that does not begin with a dot is a whole checkpoint, at every instant. While one is made, replaced or deleted, it lies under
// .step-00000100.partial, .replaced or .removed; what a killed job left there is put right by the next writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ropewalk {

// What `latest` names; where there is no `latest`, the highest complete step; nothing where there is no checkpoint.
// CheckpointError where `latest` names something that is missing.
std::optional<std::string> newest_checkpoint(const std::string& root);

// Deletes all but the newest `keep` and the multiples of `keep_every` (0: none). What `latest` names is the newest and always stays; higher
// steps, which a run left behind when it went back to an older one, stay until the run has passed them. One rank calls it.
void retain_checkpoints(const std::string& root, int64_t keep, int64_t keep_every);

std::string checkpoint_name(int64_t step);  // "step-00000100"

// For the writer, on one rank. start_checkpoint makes the folder to fill; publish_checkpoint gives it its name, in place of one that has
// the name already, and lets `latest` name it; returns the folder.
std::string start_checkpoint(const std::string& root, int64_t step);
std::string publish_checkpoint(const std::string& root, int64_t step);
std::string partial_checkpoint(const std::string& root, int64_t step);    // the folder to fill, for the other ranks
void discard_checkpoint(const std::string& root, int64_t step) noexcept;  // the folder that cannot be filled

// What to do when the checkpoint in `folder` cannot be read; names the one before it where there is one.
std::string way_out(const std::string& folder);

}  // namespace ropewalk
