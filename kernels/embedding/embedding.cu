#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sort.cuh"
#include "kernels/embedding/embedding.h"

namespace ropewalk {
namespace {

using namespace cuda;

template <int n, class To, class From>
__global__ void forward(Rows<To> y, const int64_t* ids, Rows<From> weight, int64_t first_row) {
  for_each_pack<n>(y.count, y.width, [&](int64_t token, int64_t column) {
    const int64_t row = ids[token] - first_row;
    Pack<To, n> out{};
    if (row >= 0 && row < weight.count) {
      const auto in = load_pack<n>(weight[row] + column);
      for (int i = 0; i < n; ++i) out.v[i] = static_cast<To>(float(in.v[i]));
    }
    store_pack(y[token] + column, out);
  });
}

// ---- backward: the tokens ordered by row, cut into chunks of equal work

constexpr int kChunk = 32;  // tokens
constexpr int kAhead = 4;   // tokens whose loads are under way together
constexpr int kThreads = 128;

// The row of each token; `rows` for ids of others.
__global__ void rows_of_ids(int64_t tokens, const int64_t* ids, int64_t first_row, int64_t rows, int32_t* row) {
  for_each_item(tokens, [&](int64_t token) {
    const int64_t mine = ids[token] - first_row;
    row[token] = static_cast<int32_t>(mine >= 0 && mine < rows ? mine : rows);
  });
}

// All tokens, ordered by row.
struct Ordered {
  int64_t count;
  const int32_t *row, *token;
  __device__ bool starts(int64_t i) const { return i == 0 || row[i - 1] != row[i]; }
  __device__ bool ends(int64_t i) const { return i + 1 == count || row[i + 1] != row[i]; }
};

// What a chunk has of rows that it shares with its neighbours: for each chunk of the row that the one before has begun, and of the one that
// it begins itself and the next goes on with.
struct Edges {
  float* sums;  // [chunks, 2, D]
  int64_t width;
  __device__ float* begun_before(int64_t chunk) const { return sums + 2 * chunk * width; }
  __device__ float* to_be_continued(int64_t chunk) const { return sums + (2 * chunk + 1) * width; }
};

template <int n>
__device__ void add_to(float* sum, const Pack<float, n>& addend) {
  auto both = load_pack<n>(sum);
  for (int i = 0; i < n; ++i) both.v[i] += addend.v[i];
  store_pack(sum, both);
}

// A block adds up a tile of columns of a chunk.
template <int n, class T>
__global__ void add_chunks(Ordered ordered, Rows<T> dy, Rows<float> dweight, Edges edges) {
  const int64_t chunk = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * n;
  if (column >= dy.width) return;
  const int64_t begin = chunk * kChunk, end = begin + kChunk < ordered.count ? begin + kChunk : ordered.count;
  bool begun_before = !ordered.starts(begin);
  Pack<float, n> sum{};
  for (int64_t i = begin; i < end; i += kAhead) {
    Pack<T, n> next[kAhead] = {};
    for (int k = 0; k < kAhead; ++k)
      if (i + k < end && ordered.row[i + k] < dweight.count) next[k] = load_pack<n>(dy[ordered.token[i + k]] + column);
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= end || ordered.row[i + k] >= dweight.count) continue;
      for (int c = 0; c < n; ++c) sum.v[c] += float(next[k].v[c]);
      const bool ends = ordered.ends(i + k);
      if (!ends && i + k + 1 < end) continue;
      if (begun_before)
        store_pack(edges.begun_before(chunk) + column, sum);
      else if (ends)
        add_to(dweight[ordered.row[i + k]] + column, sum);
      else
        store_pack(edges.to_be_continued(chunk) + column, sum);
      begun_before = false;
      sum = {};
    }
  }
}

// The first that stands behind all of the row of number i.
__device__ inline int64_t end_of_row(const Ordered& ordered, int64_t i) {
  int64_t inside = i, outside = ordered.count;
  while (inside + 1 < outside) {
    const int64_t middle = (inside + outside) / 2;
    (ordered.row[middle] == ordered.row[i] ? inside : outside) = middle;
  }
  return outside;
}

// The sum of a row that goes on over several chunks, by the block of the first.
template <int n>
__global__ void add_edges(Ordered ordered, Rows<float> dweight, Edges edges) {
  const int64_t chunk = blockIdx.x, column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * n;
  const int64_t begin = chunk * kChunk, last = (chunk + 1) * kChunk - 1;
  if (column >= dweight.width || last >= ordered.count || ordered.ends(last) || ordered.row[last] >= dweight.count) return;
  if (!ordered.starts(begin) && ordered.row[begin] == ordered.row[last]) return;
  const int64_t last_chunk = (end_of_row(ordered, last) - 1) / kChunk;
  auto sum = load_pack<n>(edges.to_be_continued(chunk) + column);
  for (int64_t next = chunk + 1; next <= last_chunk; ++next) {
    const auto part = load_pack<n>(edges.begun_before(next) + column);
    for (int i = 0; i < n; ++i) sum.v[i] += part.v[i];
  }
  add_to(dweight[ordered.row[last]] + column, sum);
}

template <class To, class From>
void forward(const EmbeddingForward& args) {
  const auto y = rows_of<To>(args.y);
  const auto weight = rows_of<From>(args.weight, "embedding: weight");
  with_packs<16 / std::max(sizeof(To), sizeof(From))>(
      [&]<int n>() { run(forward<n, To, From>, grid_for(args.y.numel() / n), y, args.ids.data<int64_t>(), weight, args.first_row); }, y,
      weight);
}

template <class T>
void backward(const EmbeddingBackward& args) {
  const auto dweight = rows_of<float>(args.dweight, "embedding: dweight");
  const auto dy = rows_of<T>(args.dy, "embedding: dy");
  const Tensor row = Tensor::empty(Shape{dy.count}, DType::kInt32, Cuda{});
  run(rows_of_ids, grid_for(dy.count), dy.count, args.ids.data<int64_t>(), args.first_row, dweight.count, row.data<int32_t>());
  const SortedPositions sorted = sort_positions(row, dweight.count + 1);
  const Ordered ordered{.count = dy.count, .row = sorted.keys.data<int32_t>(), .token = sorted.positions.data<int32_t>()};
  const int64_t chunks = ceil_div(dy.count, kChunk);
  const Tensor sums = Tensor::empty(Shape{chunks, 2, dy.width}, DType::kFloat32, Cuda{});
  const Edges edges{.sums = sums.data<float>(), .width = dy.width};
  with_packs<kPackWidth<float>>(
      [&]<int n>() {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(ceil_div(dy.width, kThreads * n))),
                        .threads = dim3(kThreads)};
        run(add_chunks<n, T>, grid, ordered, dy, dweight, edges);
        run(add_edges<n>, grid, ordered, dweight, edges);
      },
      dy, dweight);
}

}  // namespace

void launch(Cuda, const EmbeddingForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_narrow(args.y.dtype(), args.weight.dtype(), [&]<class To, class From>() { forward<To, From>(args); });
}

void launch(Cuda, const EmbeddingBackward& args) {
  if (args.dy.numel() == 0 || args.dweight.numel() == 0) return;
  dispatch_narrow(args.dy.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
