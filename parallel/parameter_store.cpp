#include "parallel/parameter_store.h"

#include <algorithm>
#include <cmath>

#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/philox.h"

namespace ropewalk {
namespace {

double draw(const Init& init, const Philox& random, uint64_t index, int64_t column) {
  switch (init.type) {
    case Init::kConstant: return init.a;
    case Init::kUniform: return init.a + (init.b - init.a) * random.uniform(index);
    case Init::kNormal: return init.a * random.normal(index);
    case Init::kLogOfUniform: return std::log(init.a + (init.b - init.a) * random.uniform(index));
    case Init::kLogOfColumn: return std::log1p(static_cast<double>(column));
    case Init::kInverseSoftplus: {
      const double y = std::exp(std::log(init.a) + (std::log(init.b) - std::log(init.a)) * random.uniform(index));
      return y + std::log(-std::expm1(-y));
    }
  }
  return 0;
}

std::vector<int> stages_of(const FusedParameter& fused) {
  std::vector<int> stages;
  for (const auto& [stage, uses] : fused.uses) stages.push_back(stage);
  return stages;
}

}  // namespace

ParameterStore::ParameterStore(const Declarations& declarations, const Mesh& mesh, DType compute, uint64_t seed) {
  for (const auto& fused : declarations.all())
    if (fused->uses.contains(mesh.coordinate(Axis::kPipeline))) place(*fused, mesh);

  const DType dtype = wide(compute);
  master_ = Tensor::empty({numel_}, dtype);
  grad_ = mesh.tokens().allocate_shared({numel_}, dtype);
  grad_.fill(0);
  if (compute == DType::kBFloat16) working_ = Tensor::empty({numel_}, compute);
  for (const PlacedLeaf& placed : leaves_) {
    const Tensor& source = working_ && !placed.read_wide ? working_ : master_;
    placed.leaf->data = source.narrow(0, placed.offset, placed.shape.numel()).reshape(placed.shape);
    placed.leaf->grad = grad_.narrow(0, placed.offset, placed.shape.numel()).reshape(placed.shape);
  }
  for (const auto& buffer : declarations.buffers()) {
    buffer->value = Tensor::zeros(buffer->shape, dtype);
    buffers_.push_back({.buffer = buffer, .counted = mesh.all().rank() == 0});
  }
  for (const PlacedPart& part : parts_) initialise(part, seed);
  refresh_working();
}

void ParameterStore::place(const FusedParameter& fused, const Mesh& mesh) {
  const int rank = mesh.coordinate(Axis::kTensor), ranks = mesh.size(Axis::kTensor), stage = mesh.coordinate(Axis::kPipeline);
  PlacedLeaf leaf{.leaf = fused.leaf, .offset = numel_, .uses = fused.uses.at(stage)};
  leaf.read_wide = kept_wide(fused.parts.front().role);
  Shape local = fused.parts.front().shape.with(0, 0);
  for (const ParameterSpec& spec : fused.parts) {
    PlacedPart part{.spec = spec, .start = spec.shape, .extent = spec.shape, .offset = numel_};
    for (int d = 0; d < spec.shape.rank(); ++d) {
      const bool cut = spec.split && spec.split->dim == d;
      const Range range = local_range(spec.shape[d], cut ? spec.split : std::nullopt, rank, ranks);
      part.start[d] = range.begin;
      part.extent[d] = range.length;
    }
    const int copies = replicas(spec.split, ranks);
    part.tensor_copies = spec.split || spec.owed_over_tensor ? copies : 1;
    part.read_wide = leaf.read_wide;
    part.stages = stages_of(fused);
    part.counted = rank % copies == 0 && mesh.tokens().rank() == 0 && stage == part.stages.front();
    local = part.extent.with(0, local[0] + part.extent[0]);
    numel_ += part.numel();
    parts_.push_back(std::move(part));
  }
  leaf.shape = local;
  if (local.numel() == 0 && fused.parts.front().split->of > 1) leaf.uses = 0;  // another rank's altogether: no op here reads it
  leaves_.push_back(std::move(leaf));
}

void ParameterStore::initialise(const PlacedPart& part, uint64_t seed) const {
  const Philox random(seed, part.spec.name);
  const Tensor values = span(master_, part);
  const int rank = part.extent.rank();
  const int64_t width = part.extent[-1], global_width = part.spec.shape[-1];
  if (part.numel() == 0) return;
  dispatch_float(values.dtype(), [&]<class T>(std::type_identity<T>) {
    T* target = values.data<T>();
    parallel_for(part.numel() / width, [&](int64_t row) {
      int64_t rest = row, global_row = 0, step = 1;
      for (int d = rank - 2; d >= 0; --d) {
        global_row += (part.start[d] + rest % part.extent[d]) * step;
        rest /= part.extent[d];
        step *= part.spec.shape[d];
      }
      const int64_t first = global_row * global_width + part.start[-1];
      for (int64_t i = 0; i < width; ++i)
        target[row * width + i] =
            static_cast<T>(static_cast<Wide<T>>(draw(part.spec.init, random, static_cast<uint64_t>(first + i), part.start[-1] + i)));
    });
  });
}

Tensor ParameterStore::working_span(const PlacedPart& part) const { return working_ && !part.read_wide ? span(working_, part) : Tensor(); }

void ParameterStore::refresh_working() const {
  if (working_) working_.copy_from(master_);
}

}  // namespace ropewalk
