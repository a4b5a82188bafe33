#include "parallel/mesh.h"

#include <algorithm>

namespace ropewalk {
namespace {

// Those that the ranks are a box of: the first of kAxes.
constexpr std::array kBoxAxes = {Axis::kPipeline, Axis::kData, Axis::kContext, Axis::kTensor};

using Coordinates = std::array<int, kBoxAxes.size()>;  // in their order

Coordinates coordinates_of(int rank, const Degrees& degrees) {
  Coordinates at{};
  for (int i = static_cast<int>(kBoxAxes.size()) - 1; i >= 0; --i) {
    at[i] = rank % degrees.of(kBoxAxes[i]);
    rank /= degrees.of(kBoxAxes[i]);
  }
  return at;
}

// "pipeline 1, data 0", of as many axes as there are numbers.
template <size_t kCount>
std::string text_of(const std::array<int, kCount>& by_axis) {
  std::string text;
  for (size_t i = 0; i < kCount; ++i) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name_of(kAxes[i]), by_axis[i]);
  return text;
}

// For reports of what goes wrong between them.
void name_ranks(const Group& all, const Degrees& degrees) {
  std::vector<std::string> names;
  for (int rank = 0; rank < all.size(); ++rank) names.push_back(text_of(coordinates_of(rank, degrees)));
  all.name_ranks(names);
}

}  // namespace

const char* name_of(Axis axis) {
  switch (axis) {
    case Axis::kPipeline: return "pipeline";
    case Axis::kData: return "data";
    case Axis::kContext: return "context";
    case Axis::kTensor: return "tensor";
    case Axis::kExpert: return "expert";
  }
  return "?";
}

int Degrees::of(Axis axis) const {
  switch (axis) {
    case Axis::kPipeline: return pipeline;
    case Axis::kData: return data;
    case Axis::kContext: return context;
    case Axis::kTensor: return tensor;
    case Axis::kExpert: return expert;
  }
  return 0;
}

std::string Degrees::describe() const { return text_of(std::array{pipeline, data, context, tensor, expert}); }

Mesh::Accounts Mesh::make_accounts() {
  Accounts accounts;
  for (auto& account : accounts) account = std::make_shared<Account>();
  return accounts;
}

Mesh::Mesh(const Group& all, const Degrees& degrees) : degrees_(degrees), all_(all) {
  expect(degrees.ranks() == all.size(), "mesh: pipeline {} x data {} x context {} x tensor {} is {} ranks, given {}", degrees.pipeline,
         degrees.data, degrees.context, degrees.tensor, degrees.ranks(), all.size());
  name_ranks(all, degrees);
  const Coordinates mine = coordinates_of(all.rank(), degrees);
  // The ranks that differ from this one only along some axes: their color is what they have in common, counted as in a smaller box.
  const auto along = [&](Axis serves, auto&& varies) {
    int color = 0;
    for (size_t i = 0; i < kBoxAxes.size(); ++i)
      if (!varies(kBoxAxes[i])) color = color * degrees.of(kBoxAxes[i]) + mine[i];
    return all.split(color, account(serves));
  };
  for (const Axis axis : kBoxAxes) axis_[static_cast<int>(axis)] = along(axis, [axis](Axis other) { return other == axis; });
  tokens_ = along(Axis::kData, [](Axis axis) { return axis == Axis::kData || axis == Axis::kContext; });
  pipeline_back_ = pipeline().split(0);
  rows_ = along(Axis::kContext, [](Axis axis) { return axis == Axis::kContext || axis == Axis::kTensor; });
  expect(tokens_.size() % degrees.expert == 0, "mesh: {} expert ranks do not divide data {} x context {}", degrees.expert, degrees.data,
         degrees.context);
  axis_[static_cast<int>(Axis::kExpert)] = tokens_.split(tokens_.rank() / degrees.expert, account(Axis::kExpert));
  expert_replicas_ = tokens_.split(tokens_.rank() % degrees.expert);
}

Group Mesh::of_stages(const std::vector<int>& stages, bool experts) const {
  const bool member = std::find(stages.begin(), stages.end(), coordinate(Axis::kPipeline)) != stages.end();
  const int held = experts ? expert().rank() : 0;
  const Group group = all_.split(member ? 1 + coordinate(Axis::kTensor) * degrees_.expert + held : 0, account(Axis::kData));
  return member ? group : Group();
}

std::string Mesh::coordinates() const { return text_of(coordinates_of(all_.rank(), degrees_)); }

}  // namespace ropewalk
