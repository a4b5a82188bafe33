#include "trainer/trace_file.h"

#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace ropewalk {
namespace {

using nlohmann::ordered_json;

const char* category(TimeSpan::Kind kind) {
  switch (kind) {
    case TimeSpan::kPhase: return "phase";
    case TimeSpan::kForward: return "forward";
    case TimeSpan::kBackward: return "backward";
    case TimeSpan::kKernel: return "kernel";
    case TimeSpan::kWait: return "wait";
    case TimeSpan::kTransfer: return "transfer";
  }
  return "";
}

double microseconds(int64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-3; }

ordered_json event(const TimeSpan& span, const char* type, int rank, int64_t at) {
  const std::string name = span.kind == TimeSpan::kBackward ? std::string(span.name) + ".backward" : std::string(span.name);
  return {{"name", name}, {"cat", category(span.kind)}, {"ph", type}, {"ts", microseconds(at)}, {"pid", rank}, {"tid", 0}};
}

ordered_json arguments(const Effort& effort) {
  ordered_json args = ordered_json::object();
  if (effort.flops > 0) args["flops"] = effort.flops;
  if (effort.bytes > 0) args["bytes"] = effort.bytes;
  return args;
}

}  // namespace

std::string chrome_trace(const Timeline& timeline, int rank) {
  ordered_json events = ordered_json::array();
  events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", rank}, {"tid", 0}, {"args", {{"name", fmt::format("rank {}", rank)}}}});
  for (size_t i = 0; i < timeline.spans().size(); ++i) {
    const TimeSpan& span = timeline.spans()[i];
    const bool nests = span.kind != TimeSpan::kTransfer;
    ordered_json begun = event(span, nests ? "X" : "b", rank, span.begin);
    if (nests) begun["dur"] = microseconds(span.end - span.begin);
    begun["args"] = arguments(span.effort);
    if (!nests) begun["id"] = i;
    events.push_back(std::move(begun));
    if (nests) continue;
    ordered_json ended = event(span, "e", rank, span.end);
    ended["id"] = i;
    events.push_back(std::move(ended));
  }
  return ordered_json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump();
}

}  // namespace ropewalk
