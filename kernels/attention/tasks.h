// What the blocks of threads of attention on a GPU do: a task holds neighbouring tokens of one side, queries or keys, and streams the
// tokens of the other past them that they meet.
#pragma once

#include "kernels/attention/visibility.h"

namespace ropewalk {

// Tokens of the other side that some of those held meet. Of the two that begin these, positions differ by `ahead`, held minus streamed.
struct Meeting {
  int row, begin, length;
  int held_begin, held_length;  // counted from the task's first token
  int ahead;
};
struct AttentionTask {
  int row, begin, length;
  int first_meeting, meetings;
};
struct AttentionTasks {
  std::vector<AttentionTask> tasks;  // those with most to do first
  std::vector<Meeting> meetings;
};

// Differences of positions are cut off here, where all are seen, or with a window none: half an int leaves room to add.
constexpr int kFar = 1 << 29;

// Each query that stands in a run is held by one task, at most `tile` at a time.
AttentionTasks query_tasks(const Spans& spans, const Visibility& visibility, int64_t tile);
// Every key is held by one task; those nobody sees meet nobody.
AttentionTasks key_tasks(const Spans& spans, const Visibility& visibility, const Shape& k, int64_t tile);

}  // namespace ropewalk
