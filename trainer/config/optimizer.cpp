// The section `optimizer`: what a group does not say is the optimizer's.
#include <algorithm>
#include <cmath>

#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

// Steps, or a share of the run.
constexpr NumberRange kSpan{"a whole number of steps, or a share of the run below 1",
                            [](double x) { return x >= 0 && (x < 1 || x == std::floor(x)); }};

const Choices<ScheduleOptions::Type> kScheduleTypes = {{"constant", ScheduleOptions::kConstant},
                                                       {"linear", ScheduleOptions::kLinear},
                                                       {"cosine", ScheduleOptions::kCosine},
                                                       {"wsd", ScheduleOptions::kWsd},
                                                       {"inverse_sqrt", ScheduleOptions::kInverseSqrt}};

// Says whether what is left out gets its default, or stays what it is (inherited) and unsaid.
enum class Unsaid { kDefault, kInherit };

void read_number(const Node& node, const NumberRange& range, Unsaid unsaid, double& value) {
  if (unsaid == Unsaid::kDefault) {
    value = node.number(range, value);
  } else if (node.given()) {
    value = node.number(range);
  }
}

void read_type(const Node& node, Unsaid unsaid, ScheduleOptions& schedule) {
  if (node.given() || unsaid == Unsaid::kDefault) schedule.type = node.choice(kScheduleTypes, std::optional(schedule.type));
}

void read_shape(const Node& node, Unsaid unsaid, ScheduleOptions& schedule) {
  const Choices<ScheduleOptions::Shape> shapes = {
      {"sqrt", ScheduleOptions::kSqrtDecay}, {"linear", ScheduleOptions::kLinearDecay}, {"cosine", ScheduleOptions::kCosineDecay}};
  if (node.given() || unsaid == Unsaid::kDefault) schedule.shape = node.choice(shapes, std::optional(schedule.shape));
}

// Refuses what the schedule's type has no use for. `named`: the type was given in the same place.
void refuse_keys(const Node& node, const std::vector<std::string>& keys, const ScheduleOptions& schedule, bool named) {
  for (const std::string& key : keys) {
    if (!node[key].given()) continue;
    const auto type = std::find_if(kScheduleTypes.begin(), kScheduleTypes.end(), [&](const auto& t) { return t.second == schedule.type; });
    throw node[key].error(fmt::format("a schedule of type {} has none{}", type->first, named ? "" : "; name the type that is meant"));
  }
}

// A named type starts from that type's defaults; without one the inherited schedule is changed.
void read_schedule(const Node& node, Unsaid unsaid, ScheduleOptions& schedule) {
  if (!node.given() && unsaid == Unsaid::kInherit) return;
  const std::string otherwise = unsaid == Unsaid::kInherit ? "the optimizer's, but where a type is named, the type's" : "";
  const bool named = node["type"].given();
  if (named) {
    schedule = {};
    unsaid = Unsaid::kDefault;
  }
  read_type(node["type"].about("Shape of the learning rate over the run; a named type starts from that type's defaults.", otherwise),
            unsaid, schedule);
  read_number(node["warmup"].about("Linear warm-up: steps, or a share of the run below 1.", otherwise), kSpan, unsaid, schedule.warmup);
  if (schedule.type == ScheduleOptions::kWsd) {
    read_number(node["decay"].about("wsd: length of the last phase; steps, or a share of the run below 1.", otherwise), kSpan, unsaid,
                schedule.decay);
    read_shape(node["shape"].about("wsd: how the last phase falls.", otherwise), unsaid, schedule);
  } else {
    refuse_keys(node, {"decay", "shape"}, schedule, named);
  }
  if (schedule.type == ScheduleOptions::kConstant)
    refuse_keys(node, {"final"}, schedule, named);
  else
    read_number(
        node["final"].about("The last learning rate (inverse_sqrt: the least) as a share of the peak; constant has none.", otherwise),
        kUpToOne, unsaid, schedule.final);
  if (schedule.warmup < 1 && schedule.type == ScheduleOptions::kWsd && schedule.decay < 1 && schedule.warmup + schedule.decay > 1)
    throw node.error(
        fmt::format("expected warmup ({:g}) and decay ({:g}) to be at most the whole run together", schedule.warmup, schedule.decay));
}

void read_betas(const Node& node, Unsaid unsaid, OptimizerValues& values) {
  if (!node.given() && unsaid == Unsaid::kInherit) return;
  const std::vector<double> betas = node.numbers(kBelowOne, {values.beta1, values.beta2});
  values.beta1 = betas[0];
  values.beta2 = betas[1];
}

void read_values(const Node& node, Unsaid unsaid, OptimizerValues& values) {
  const bool inherits = unsaid == Unsaid::kInherit;
  const std::string otherwise = inherits ? "the optimizer's" : "";
  read_number(node["lr"].about("Peak learning rate.", inherits ? otherwise : "required to train"), kNotNegative, Unsaid::kInherit,
              values.lr);  // has no default
  read_betas(node["betas"].about("Decay of the first and the second moment.", otherwise), unsaid, values);
  read_number(node["eps"].about("Added to the root of the second moment.", otherwise), kPositive, unsaid, values.eps);
  read_number(
      node["weight_decay"].about("Decoupled weight decay; on norms, biases, A_log, D and dt_bias only where a group says so.", otherwise),
      kNotNegative, unsaid, values.weight_decay);
  read_schedule(node["schedule"].about("The learning rate over the run.", otherwise), unsaid, values.schedule);
}

template <class T, size_t n>
std::vector<T> read_names(const Node& node, const T (&all)[n]) {
  Choices<T> choices;
  for (const T value : all) choices.emplace_back(name_of(value), value);
  std::vector<T> values;
  for (const Node& item : node.item_or_items()) values.push_back(item.choice(choices));
  return values;
}

OptimizerGroup read_group(const Node& node, const OptimizerValues& inherited) {
  OptimizerGroup group;
  group.name = node["name"].about("In metrics and in `ropewalk params`; not `default`, which is what no group matches.").text();
  group.values = inherited;
  const Node match = node["match"].about("Which parameters: of these kinds and these roles. One of both may be left out.");
  group.kinds = read_names(match["kind"].about("The owner of a parameter.", "any"), kKinds);
  group.roles = read_names(match["role"].about("What a parameter is to its owner.", "any"), kRoles);
  if (group.kinds.empty() && group.roles.empty()) throw match.error("expected a kind, a role or both");
  read_values(node, Unsaid::kInherit, group.values);
  group.values.decay_all = node["weight_decay"].given();
  return group;
}

void refuse_name(const Node& node, const std::string& name, const std::vector<OptimizerGroup>& groups) {
  if (name == "default") throw node.error("default is what no group matches; give this group another name");
  if (std::any_of(groups.begin(), groups.end(), [&](const OptimizerGroup& group) { return group.name == name; }))
    throw node.error(fmt::format("{} is the name of another group", name));
}

}  // namespace

OptimizerOptions read_optimizer(const Node& node) {
  OptimizerOptions optimizer;
  optimizer.type =
      node["type"]
          .about("The update rule.")
          .choice<OptimizerOptions::Type>({{"adamw", OptimizerOptions::kAdamW}, {"sgd", OptimizerOptions::kSgd}}, optimizer.type);
  read_values(node, Unsaid::kDefault, optimizer.values);
  const Node groups =
      node["groups"].about("Parameters with values of their own; the first match wins, what a group does not say is the optimizer's.");
  for (const Node& item : groups.items()) {
    const OptimizerGroup group = read_group(item, optimizer.values);
    refuse_name(item["name"], group.name, optimizer.groups);
    optimizer.groups.push_back(group);
  }
  return optimizer;
}

}  // namespace ropewalk
