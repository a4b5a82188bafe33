#include "trainer/describe.h"

#include <algorithm>
#include <cmath>

#include "layers/model.h"
#include "trainer/optimizer.h"

namespace ropewalk {
namespace {

std::string describe(const ScheduleOptions& schedule) {
  const std::string warmup = fmt::format("warmup {:g}", schedule.warmup);
  switch (schedule.type) {
    case ScheduleOptions::kConstant: return "constant, " + warmup;
    case ScheduleOptions::kLinear: return fmt::format("linear, {}, final {:g}", warmup, schedule.final);
    case ScheduleOptions::kCosine: return fmt::format("cosine, {}, final {:g}", warmup, schedule.final);
    case ScheduleOptions::kInverseSqrt: return fmt::format("inverse_sqrt, {}, final {:g}", warmup, schedule.final);
    case ScheduleOptions::kWsd: {
      const char* shapes[] = {"sqrt", "linear", "cosine"};
      return fmt::format("wsd, {}, decay {:g} {}, final {:g}", warmup, schedule.decay, shapes[schedule.shape], schedule.final);
    }
  }
  return "";
}

std::string with_commas(int64_t n) {
  std::string text = std::to_string(n);
  for (int64_t at = std::ssize(text) - 3; at > 0; at -= 3) text.insert(static_cast<size_t>(at), ",");
  return text;
}

// "parameters 51,570,319,360 (51.570 B)"
std::string total_line(const std::string& name, int64_t total) {
  return fmt::format("{} {} ({:.3f} B)\n", name, with_commas(total), static_cast<double>(total) / 1e9);
}

std::string describe(const ParameterTotals& totals) {
  return total_line("parameters", totals.all) + (totals.active < totals.all ? total_line("active", totals.active) : "");
}

Declarations declare(const ModelOptions& options) {
  Declarations declarations(false);
  HybridModel(options, {}).declare(declarations);
  return declarations;
}

ParameterTotals count(const Declarations& declarations) {
  ParameterTotals totals;
  for (const auto& fused : declarations.all())
    for (const ParameterSpec& spec : fused->parts) {
      totals.all += spec.shape.numel();
      totals.active += std::llround(spec.active * static_cast<double>(spec.shape.numel()));
    }
  return totals;
}

struct GroupTotal {
  int64_t parameters = 0, tensors = 0;
};

}  // namespace

ParameterTotals count_parameters(const ModelOptions& model) { return count(declare(model)); }

std::string describe_parameters(const Options& options) {
  const Declarations declarations = declare(options.model);
  const ParameterGroups groups(options.optimizer, declarations);

  std::string table = fmt::format("{:<44} {:>18} {:<10} {:<8} {:>12}  {}\n", "parameter", "shape", "kind", "role", "decay", "group");
  std::vector<GroupTotal> totals(groups.groups().size());
  for (const auto& fused : declarations.all())
    for (const ParameterSpec& spec : fused->parts) {
      const size_t group = groups.group_of(spec);
      table += fmt::format("{:<44} {:>18} {:<10} {:<8} {:>12g}  {}\n", spec.name, spec.shape.to_string(), name_of(spec.kind),
                           name_of(spec.role), groups.weight_decay(spec), groups.groups()[group].name);
      totals[group].parameters += spec.shape.numel();
      ++totals[group].tensors;
    }
  table += fmt::format("\n{:<20} {:>10} {:>16} {:>10}  {}\n", "group", "tensors", "parameters", "lr", "schedule");
  for (size_t group = 0; group < totals.size(); ++group) {
    const OptimizerGroup& g = groups.groups()[group];
    table += fmt::format("{:<20} {:>10} {:>16} {:>10g}  {}\n", g.name, totals[group].tensors, with_commas(totals[group].parameters),
                         g.values.lr, describe(g.values.schedule));
  }
  return table + describe(count(declarations));
}

std::string describe_checkpoint(const CheckpointReader& reader, const std::string& folder) {
  const CheckpointMeta& meta = reader.meta();
  std::string text =
      fmt::format("{}\nstep {}, {} tokens, written by {} on {}\n", folder, meta.step, with_commas(meta.tokens), meta.version, meta.mesh);
  int64_t parameters = 0;
  for (const auto& tensor : reader.tensors()) {
    text += fmt::format("{:<56} {:<5} {:>18}  in {} box{}\n", tensor.name, name_of(tensor.dtype), tensor.shape.to_string(), tensor.boxes,
                        tensor.boxes == 1 ? "" : "es");
    if (tensor.name.starts_with("weights/")) parameters += tensor.shape.numel();
  }
  return text + fmt::format("parameters {}\n", with_commas(parameters));
}

}  // namespace ropewalk
