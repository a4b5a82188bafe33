// The ranks as a box: pipeline x data x context x tensor, tensor varying fastest. The only place that multiplies degrees.
//
// Experts fold over data x context: of the ranks with the same weights and different tokens, each `expert` neighbours share the experts of
// a layer out among them, and those of the same place in such a group hold the same experts.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "parallel/comm/group.h"

namespace ropewalk {

enum class Axis { kPipeline, kData, kContext, kTensor, kExpert };
constexpr std::array kAxes = {Axis::kPipeline, Axis::kData, Axis::kContext, Axis::kTensor, Axis::kExpert};
const char* name_of(Axis axis);

struct Degrees {
  int pipeline = 1, data = 1, context = 1, tensor = 1;
  int expert = 1;  // divides data x context
  int of(Axis axis) const;
  int ranks() const { return pipeline * data * context * tensor; }
  std::string describe() const;  // "pipeline 1, data 4, context 1, tensor 2, expert 4"
};

class Mesh {
 public:
  Mesh() : Mesh(Group(), {}) {}
  // Cuts any group, not only the world, whose size is degrees.ranks().
  Mesh(const Group& all, const Degrees& degrees);

  const Degrees& degrees() const { return degrees_; }
  int coordinate(Axis axis) const { return axis_[static_cast<int>(axis)].rank(); }
  int size(Axis axis) const { return degrees_.of(axis); }
  const Group& axis(Axis axis) const { return axis_[static_cast<int>(axis)]; }
  const Group& pipeline() const { return axis(Axis::kPipeline); }
  // The same ranks again: what goes back through the pipeline, apart from what goes forward.
  const Group& pipeline_back() const { return pipeline_back_; }
  const Group& data() const { return axis(Axis::kData); }
  const Group& context() const { return axis(Axis::kContext); }
  const Group& tensor() const { return axis(Axis::kTensor); }
  const Group& tokens() const { return tokens_; }                    // data x context: the same weights, different tokens
  const Group& rows() const { return rows_; }                        // context x tensor: the same rows of a batch
  const Group& expert() const { return axis(Axis::kExpert); }        // shares the experts out
  const Group& expert_replicas() const { return expert_replicas_; }  // the ranks of tokens() that hold the same experts
  const Group& all() const { return all_; }
  // Ranks of several stages that differ in nothing else but their tokens; `experts`: and that hold the same experts. Collective over all
  // ranks; of one rank where this rank's stage is not among them.
  Group of_stages(const std::vector<int>& stages, bool experts) const;
  // By this rank so far, through the groups that serve an axis. What brings copies of a parameter into line counts as data's, over context
  // ranks and stages too, and as tensor's between tensor ranks; what is known of a sequence only as a whole, as context's. Values of the
  // host over all ranks (loss, norms, counts) are nobody's.
  int64_t bytes_sent(Axis axis) const { return account(axis)->bytes; }
  std::string coordinates() const;  // "pipeline 0, data 1, context 0, tensor 1"

 private:
  using Accounts = std::array<std::shared_ptr<Account>, kAxes.size()>;
  static Accounts make_accounts();
  const std::shared_ptr<Account>& account(Axis axis) const { return accounts_[static_cast<int>(axis)]; }

  Degrees degrees_;
  Accounts accounts_ = make_accounts();
  Group all_, tokens_, rows_, expert_replicas_, pipeline_back_;
  std::array<Group, kAxes.size()> axis_;
};

}  // namespace ropewalk
