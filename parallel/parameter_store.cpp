#include "parallel/parameter_store.h"

#include <algorithm>
#include <cmath>

#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/philox.h"

namespace ropewalk {
namespace {

constexpr int64_t kBucketBytes = 25 << 20;  // of gradients

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

// The width of the rows of a part, which no cut divides.
int64_t row_width(const PlacedPart& part) { return part.extent.rank() == 1 ? 1 : part.extent[-1]; }

// What this rank holds of a dim.
Range held(const ParameterSpec& spec, int dim, const Mesh& mesh) {
  const int64_t extent = spec.shape[dim];
  if (spec.by_expert && dim == 0) return local_range(extent, Split{0, extent}, mesh.expert().rank(), mesh.expert().size());
  if (!spec.split || spec.split->dim != dim) return {0, extent};
  return local_range(extent, spec.split, mesh.coordinate(Axis::kTensor), mesh.size(Axis::kTensor));
}

// Where element `at` of the part stands in the global tensor, both row-major.
int64_t global_index(const PlacedPart& part, int64_t at) {
  int64_t index = 0, step = 1;
  for (int d = part.extent.rank() - 1; d >= 0; --d) {
    index += (part.start[d] + at % part.extent[d]) * step;
    at /= part.extent[d];
    step *= part.spec.shape[d];
  }
  return index;
}

// What this rank owns of the part, in a tensor that begins with element `first` of the part's bucket.
Tensor owned_of(const Tensor& x, int64_t first, const PlacedPart& part) {
  return part.owned.length == 0 ? x.narrow(0, 0, 0) : x.narrow(0, part.offset + part.owned.begin - first, part.owned.length);
}

}  // namespace

// Parameters that the same ranks hold and that are read in one dtype.
struct ParameterStore::Class {
  std::vector<int> stages;
  bool by_expert;
  DType read;
  auto operator<=>(const Class&) const = default;

  bool late() const { return stages.size() > 1; }
  bool on(int stage) const { return std::find(stages.begin(), stages.end(), stage) != stages.end(); }
  Group replicas(const Mesh& mesh) const {
    if (late()) return mesh.of_stages(stages, by_expert);
    return by_expert ? mesh.expert_replicas() : mesh.tokens();
  }
};

ParameterStore::ParameterStore(const Declarations& declarations, const Mesh& mesh, const StoreOptions& options)
    : zero_(options.zero), wide_(wide(options.compute)), device_(options.device) {
  std::map<Class, std::vector<const FusedParameter*>> classes;  // the same on all ranks, whatever is on their stages
  for (const auto& fused : declarations.all()) {
    const ParameterSpec& spec = fused->parts.front();
    classes[{fused->stages(), spec.by_expert, kept_wide(spec.role) ? wide_ : options.compute}].push_back(fused.get());
  }
  for (const auto& [of, parameters] : classes) {
    const Bucket empty{.replicas = of.replicas(mesh), .late = of.late()};
    if (!of.on(mesh.coordinate(Axis::kPipeline))) continue;
    const size_t first = buckets_.size();
    // Backward comes to what was declared last first, so that the buckets fill in their order.
    for (auto fused = parameters.rbegin(); fused != parameters.rend(); ++fused) {
      if (starts_bucket(**fused, first)) buckets_.push_back(empty);
      place(**fused, mesh);
    }
    for (size_t i = first; i < buckets_.size(); ++i) {
      cut(buckets_[i]);
      own(buckets_[i], mesh);
      allocate(buckets_[i], of.read);
    }
  }
  for (const auto& buffer : declarations.buffers()) {
    buffer->value = Tensor::zeros(buffer->shape, wide_, device_);
    buffers_.push_back({.buffer = buffer, .counted = mesh.all().rank() == 0});
  }
  for (const PlacedPart& part : parts_) initialise(part, options.seed);
  round_masters();
  gather();
}

// Behind the buckets of other classes, `before` in number.
bool ParameterStore::starts_bucket(const FusedParameter& fused, size_t before) const {
  if (buckets_.size() == before) return true;
  const Bucket& last = buckets_.back();
  if (zero_ >= 3 && !last.late && leaves_[last.leaves.back()].unit != fused.unit) return true;
  return last.numel * static_cast<int64_t>(size_of(wide_)) >= kBucketBytes;
}

void ParameterStore::place(const FusedParameter& fused, const Mesh& mesh) {
  Bucket& bucket = buckets_.back();
  PlacedLeaf leaf{.leaf = fused.leaf,
                  .bucket = buckets_.size() - 1,
                  .offset = bucket.numel,
                  .uses = fused.uses.at(mesh.coordinate(Axis::kPipeline)),
                  .unit = fused.unit};
  Shape local = fused.parts.front().shape.with(0, 0);
  for (const ParameterSpec& spec : fused.parts) {
    PlacedPart part{.spec = spec, .start = spec.shape, .extent = spec.shape, .bucket = leaf.bucket, .offset = bucket.numel};
    for (int d = 0; d < spec.shape.rank(); ++d) {
      const Range range = held(spec, d, mesh);
      part.start[d] = range.begin;
      part.extent[d] = range.length;
    }
    part.tensor_copies = spec.split || spec.owed_over_tensor ? replicas(spec.split, mesh.size(Axis::kTensor)) : 1;
    local = (local.numel() > 0 ? local : part.extent.with(0, local[0])).with(0, local[0] + part.extent[0]);
    bucket.numel += part.numel();
    bucket.parts.push_back(parts_.size());
    parts_.push_back(std::move(part));
  }
  leaf.shape = local;
  if (local.numel() == 0 && fused.parts.front().split->of > 1) leaf.uses = 0;  // another rank's altogether: no op here reads it
  bucket.leaves.push_back(leaves_.size());
  leaves_.push_back(std::move(leaf));
}

void ParameterStore::cut(Bucket& bucket) const {
  bucket.sharded = zero_ >= 1 && bucket.replicas.size() > 1;
  bucket.cut_grad = bucket.sharded && zero_ >= 2 && !bucket.late;
  bucket.cut_values = bucket.sharded && zero_ >= 3 && !bucket.late;
  bucket.cuts = even_cuts(bucket.numel, bucket.replicas.size());
  for (int64_t& at : bucket.cuts)
    for (const size_t i : bucket.parts)
      if (const PlacedPart& part = parts_[i]; part.offset <= at && at < part.offset + part.numel())
        at -= (at - part.offset) % row_width(part);
  const int rank = bucket.replicas.rank();
  bucket.owned = bucket.sharded ? Range{bucket.cuts[rank], bucket.cuts[rank + 1] - bucket.cuts[rank]} : Range{0, bucket.numel};
}

void ParameterStore::own(Bucket& bucket, const Mesh& mesh) {
  const int rank = mesh.coordinate(Axis::kTensor), ranks = mesh.size(Axis::kTensor);
  for (const size_t i : bucket.parts) {
    PlacedPart& part = parts_[i];
    const int64_t begin = std::max(bucket.owned.begin, part.offset);
    const int64_t end = std::min(bucket.owned.begin + bucket.owned.length, part.offset + part.numel());
    part.owned = begin < end ? Range{begin - part.offset, end - begin} : Range{};
    part.owned_at = owned_;
    owned_ += part.owned.length;
    part.counted = rank % replicas(part.spec.split, ranks) == 0 && (bucket.sharded || bucket.replicas.rank() == 0);
  }
}

void ParameterStore::allocate(Bucket& bucket, DType read) {
  const Group alone, &among = bucket.sharded && !bucket.cut_values ? bucket.replicas : alone;
  bucket.values = among.allocate_shared({bucket.cut_values ? bucket.owned.length : bucket.numel}, read, device_);
  bucket.master = read == wide_ ? bucket.owned_values() : Tensor::empty({bucket.owned.length}, wide_, device_);
  bucket.grad = bucket.cut_grad ? Tensor::empty({bucket.owned.length}, wide_, device_)
                                : bucket.replicas.allocate_shared({bucket.numel}, wide_, device_);
  bucket.grad.fill(0);
  for (const size_t i : bucket.leaves) {
    if (!bucket.cut_values) leaves_[i].leaf->data = leaves_[i].of(bucket.values);
    if (!bucket.cut_grad) leaves_[i].leaf->grad = leaves_[i].of(bucket.grad);
  }
}

void ParameterStore::initialise(const PlacedPart& part, uint64_t seed) const {
  const Philox random(seed, part.spec.name);
  const Tensor target = master(part), values = Tensor::empty(target.shape(), wide_);
  const int64_t width = row_width(part), columns = part.spec.shape[-1];
  if (values.numel() == 0) return;
  dispatch_float(values.dtype(), [&]<class T>(std::type_identity<T>) {
    T* const drawn = values.data<T>();
    parallel_for(values.numel() / width, [&](int64_t row) {
      const int64_t first = global_index(part, part.owned.begin + row * width);
      for (int64_t i = 0; i < width; ++i)
        drawn[row * width + i] =
            static_cast<T>(static_cast<Wide<T>>(draw(part.spec.init, random, static_cast<uint64_t>(first + i), (first + i) % columns)));
    });
  });
  target.copy_from(values);
}

int64_t ParameterStore::numel() const {
  int64_t numel = 0;
  for (const PlacedLeaf& leaf : leaves_) numel += leaf.numel();
  return numel;
}

Tensor ParameterStore::master(const PlacedPart& part) const {
  const Bucket& bucket = buckets_[part.bucket];
  return owned_of(bucket.master, bucket.owned.begin, part);
}

Tensor ParameterStore::grad(const PlacedPart& part) const {
  const Bucket& bucket = buckets_[part.bucket];
  return owned_of(bucket.grad, bucket.cut_grad ? bucket.owned.begin : 0, part);
}

Tensor ParameterStore::working(const PlacedPart& part) const {
  const Bucket& bucket = buckets_[part.bucket];
  return bucket.rounds() ? owned_of(bucket.owned_values(), bucket.owned.begin, part) : Tensor();
}

void ParameterStore::round_masters() const {
  for (const Bucket& bucket : buckets_)
    if (bucket.rounds()) bucket.owned_values().copy_from(bucket.master);
}

void ParameterStore::gather() const {
  ++version_;
  std::vector<Work> under_way;
  for (const Bucket& bucket : buckets_)
    if (bucket.sharded && !bucket.cut_values)
      under_way.push_back(bucket.replicas.all_gather_in_place(bucket.values, bucket.cuts, "parameters"));
  for (Work& work : under_way) work.wait();
}

}  // namespace ropewalk
