#include "kernels/attention/tasks.h"

#include <numeric>

namespace ropewalk {
namespace {

// A task whose list is not laid out yet.
struct OpenTask {
  TokenRange held;
  std::vector<Meeting> meetings;

  int64_t work() const {
    return std::accumulate(meetings.begin(), meetings.end(), int64_t{0}, [](int64_t sum, const Meeting& m) { return sum + m.length; });
  }
};

Meeting meeting(const TokenRange& held, int64_t held_begin, const TokenRange& streamed) {
  const int64_t ahead = std::clamp<int64_t>(held.position - streamed.position, -kFar, kFar);
  return {.row = static_cast<int>(streamed.row),
          .begin = static_cast<int>(streamed.begin),
          .length = static_cast<int>(streamed.length),
          .held_begin = static_cast<int>(held_begin),
          .held_length = static_cast<int>(held.length),
          .ahead = static_cast<int>(ahead)};
}

AttentionTasks laid_out(const std::vector<OpenTask>& open) {
  std::vector<std::pair<int64_t, const OpenTask*>> order;
  for (const OpenTask& task : open) order.emplace_back(task.work(), &task);
  std::ranges::stable_sort(order, std::greater(), &std::pair<int64_t, const OpenTask*>::first);
  AttentionTasks result;
  for (const auto& [work, task] : order) {
    result.tasks.push_back({.row = static_cast<int>(task->held.row),
                            .begin = static_cast<int>(task->held.begin),
                            .length = static_cast<int>(task->held.length),
                            .first_meeting = static_cast<int>(result.meetings.size()),
                            .meetings = static_cast<int>(task->meetings.size())});
    result.meetings.insert(result.meetings.end(), task->meetings.begin(), task->meetings.end());
  }
  return result;
}

}  // namespace

AttentionTasks query_tasks(const Spans& spans, const Visibility& visibility, int64_t tile) {
  std::vector<OpenTask> open;
  for (const QueryRun& run : spans)
    for (int64_t begin = 0; begin < run.length; begin += tile) {
      OpenTask& task = open.emplace_back(TokenRange::of(run).piece(begin, std::min(tile, run.length - begin)));
      for (const KeyRun& keys : run.keys) {
        const TokenRange seen = visibility.keys_of(task.held, TokenRange::of(keys));
        if (seen.length > 0) task.meetings.push_back(meeting(task.held, 0, seen));
      }
    }
  return laid_out(open);
}

AttentionTasks key_tasks(const Spans& spans, const Visibility& visibility, const Shape& k, int64_t tile) {
  std::vector<OpenTask> open;
  const int64_t tiles_in_row = (k[1] + tile - 1) / tile;
  for (int64_t row = 0; row < k[0]; ++row)
    for (int64_t begin = 0; begin < k[1]; begin += tile) open.push_back({{row, begin, std::min(tile, k[1] - begin), 0}, {}});
  for (const QueryRun& run : spans)
    for (const KeyRun& keys : run.keys)
      for (int64_t at = 0; at < keys.length;) {
        const int64_t held_begin = (keys.begin + at) % tile;
        const TokenRange held = TokenRange::of(keys).piece(at, std::min(tile - held_begin, keys.length - at));
        const TokenRange seen_by = visibility.queries_of(held, TokenRange::of(run));
        OpenTask& task = open[static_cast<size_t>(keys.row * tiles_in_row + held.begin / tile)];
        if (seen_by.length > 0) task.meetings.push_back(meeting(held, held_begin, seen_by));
        at += held.length;
      }
  return laid_out(open);
}

}  // namespace ropewalk
