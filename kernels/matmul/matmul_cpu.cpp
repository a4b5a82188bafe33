// fp32 and bf16 products are oneDNN's, fp64 products our own. The only file that knows oneDNN.
#include <omp.h>

#include <algorithm>
#include <array>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/matmul/matmul.h"
#include "kernels/matmul/tile.h"
#include "kernels/tensor/isa.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

// c [m, n] (+)= op(a) [m, k] op(b) [k, n], and all else that a plan depends on.
struct Problem {
  int64_t m, n, k;
  int64_t a_stride, b_stride, c_stride;
  bool transpose_a, transpose_b, accumulate;
  DType in, out;
  auto operator<=>(const Problem&) const = default;
};

int64_t rows(const Tensor& x) { return x.shape().first(x.rank() - 1).numel(); }

Problem problem_of(const MatMul& product) {
  const Tensor &a = product.a, &b = product.b, &c = product.c;
  expect(a.rank() > 0 && b.rank() > 0 && c.rank() > 0, "matmul: expected matrices, given {}, {} and {}", a.shape(), b.shape(), c.shape());
  const int64_t m = product.transpose_a ? a.dim(-1) : rows(a), k = product.transpose_a ? rows(a) : a.dim(-1);
  const int64_t n = product.transpose_b ? rows(b) : b.dim(-1), k_of_b = product.transpose_b ? b.dim(-1) : rows(b);
  expect(k == k_of_b, "matmul: b: expected {} terms a sum (a {}), given {}", k, a.shape(), b.shape());
  expect(rows(c) == m && c.dim(-1) == n, "matmul: c: expected [{}, {}], given {}", m, n, c.shape());
  expect(a.dtype() == b.dtype(), "matmul: b: expected {} (a's), given {}", a.dtype(), b.dtype());
  expect(c.dtype() == a.dtype() || c.dtype() == wide(a.dtype()), "matmul: c: expected {}, given {}", a.dtype(), c.dtype());
  return {.m = m,
          .n = n,
          .k = k,
          .a_stride = row_stride(a, "matmul: a"),
          .b_stride = row_stride(b, "matmul: b"),
          .c_stride = row_stride(c, "matmul: c"),
          .transpose_a = product.transpose_a,
          .transpose_b = product.transpose_b,
          .accumulate = product.accumulate,
          .in = a.dtype(),
          .out = c.dtype()};
}

int64_t divide_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

// ---- fp32 and bf16

// oneDNN cuts a product by the number of threads, also along k, so its sums depend on it. Here we cut c into blocks by the shape alone
// and let oneDNN compute each on one thread: the same bits on any number of threads, at no less speed (its packing costs as much either
// way, and blocks of 256 rows suit its transposition of a better than whole columns do).
constexpr int64_t kBlockRows = 256, kBlockColumns = 512;

// Pieces of nearly equal extent, at most `most`, whole AMX tiles except for the last.
int64_t even_extent(int64_t n, int64_t most) { return std::min(n, divide_up(divide_up(n, divide_up(n, most)), 32) * 32); }

// What OpenMP, and so oneDNN, takes for the number of threads on the calling thread.
class OnOneThread {
 public:
  OnOneThread() { omp_set_num_threads(1); }
  ~OnOneThread() { omp_set_num_threads(before_); }

 private:
  int before_ = omp_get_max_threads();
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu = [] {
    isa();  // limits oneDNN, which takes no limit once it has made its first primitive
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return cpu;
}

dnnl::memory::desc matrix(int64_t rows, int64_t columns, bool transposed, int64_t stride, DType dtype) {
  const auto type = dtype == DType::kBFloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  return {{rows, columns}, type, transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

// oneDNN's plan for a block of m rows and n columns.
struct BlockPlan {
  BlockPlan() = default;
  BlockPlan(const Problem& p, int64_t m, int64_t n)
      : a(matrix(m, p.k, p.transpose_a, p.a_stride, p.in)),
        b(matrix(p.k, n, p.transpose_b, p.b_stride, p.in)),
        c(matrix(m, n, false, p.c_stride, p.out)) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (p.accumulate) {
      dnnl::post_ops add_to_c;
      add_to_c.append_sum();
      attributes.set_post_ops(add_to_c);
    }
    const dnnl::matmul::primitive_desc description({a, b, c}, attributes, engine());
    scratch = description.scratchpad_desc();
    product = dnnl::matmul(description);
  }

  dnnl::memory::desc a, b, c, scratch;
  dnnl::matmul product;
};

struct Plan {
  explicit Plan(const Problem& p)
      : rows(even_extent(p.m, kBlockRows)),
        columns(even_extent(p.n, kBlockColumns)),
        grid_rows(divide_up(p.m, rows)),
        grid_columns(divide_up(p.n, columns)) {
    const OnOneThread guard;
    const int64_t last_rows = p.m - (grid_rows - 1) * rows, last_columns = p.n - (grid_columns - 1) * columns;
    for (const bool bottom : {false, true})
      for (const bool right : {false, true}) {
        BlockPlan& block = blocks[bottom][right] = BlockPlan(p, bottom ? last_rows : rows, right ? last_columns : columns);
        scratch_bytes = std::max(scratch_bytes, divide_up(static_cast<int64_t>(block.scratch.get_size()), 64) * 64);
      }
  }

  int64_t rows, columns, grid_rows, grid_columns;
  BlockPlan blocks[2][2];  // [at the bottom edge][at the right edge]
  int64_t scratch_bytes = 0;
};

// Plans are kept, since making one costs oneDNN about as much as a small product.
std::shared_ptr<const Plan> plan_of(const Problem& problem) {
  constexpr size_t kMost = 512;  // ever new prompt lengths must not grow the cache for ever
  static std::mutex mutex;
  static std::map<Problem, std::shared_ptr<const Plan>> plans;
  const std::scoped_lock lock(mutex);
  if (plans.size() == kMost) plans.clear();
  std::shared_ptr<const Plan>& plan = plans[problem];
  if (!plan) plan = std::make_shared<const Plan>(problem);
  return plan;
}

void multiply_by_onednn(const MatMul& product, const Problem& p) {
  const std::shared_ptr<const Plan> plan = plan_of(p);
  const Tensor scratch = Tensor::empty({omp_get_max_threads(), plan->scratch_bytes}, DType::kUInt8);
  char *a = static_cast<char*>(product.a.raw()), *b = static_cast<char*>(product.b.raw()), *c = static_cast<char*>(product.c.raw());
  const auto in = static_cast<int64_t>(size_of(p.in)), out = static_cast<int64_t>(size_of(p.out));
  const int64_t a_step = in * (p.transpose_a ? 1 : p.a_stride), b_step = in * (p.transpose_b ? p.b_stride : 1);

  parallel_for(plan->grid_rows * plan->grid_columns, [&](int64_t block) {
    const OnOneThread guard;
    const int64_t row = block / plan->grid_columns, column = block % plan->grid_columns;
    const int64_t i = row * plan->rows, j = column * plan->columns;
    const BlockPlan& part = plan->blocks[row == plan->grid_rows - 1][column == plan->grid_columns - 1];
    thread_local dnnl::stream stream(engine());
    part.product.execute(
        stream, {{DNNL_ARG_SRC, {part.a, engine(), a + i * a_step}},
                 {DNNL_ARG_WEIGHTS, {part.b, engine(), b + j * b_step}},
                 {DNNL_ARG_DST, {part.c, engine(), c + (i * p.c_stride + j) * out}},
                 {DNNL_ARG_SCRATCHPAD, {part.scratch, engine(), scratch.data<uint8_t>() + omp_get_thread_num() * plan->scratch_bytes}}});
    stream.wait();
  });
}

// Only AMX multiplies bf16 faster than fp32: AVX512_BF16 has half the speed, and without it oneDNN 2.6 falls to an emulation with a fifth.
bool multiplies_bf16_fast() { return isa() == Isa::kAmx; }

void multiply_in_fp32(const MatMul& product) {
  const Tensor a = product.a.to(DType::kFloat32), b = product.b.to(DType::kFloat32), c = product.c.to(DType::kFloat32);
  launch(Cpu{}, MatMul{.c = c,
                       .a = a,
                       .transpose_a = product.transpose_a,
                       .b = b,
                       .transpose_b = product.transpose_b,
                       .accumulate = product.accumulate});
  if (product.c.dtype() != c.dtype()) product.c.copy_from(c);
}

// ---- fp64

constexpr int64_t kBlock = 64, kDepth = 128;  // a transposed panel of b takes 64 KiB

tile::Matrix<double> operand(const Tensor& x, int64_t stride, bool transpose) {
  const tile::Matrix<double> stored{x.data<double>(), stride};
  return transpose ? stored.transposed() : stored;
}

tile::Matrix<double> from(tile::Matrix<double> x, int64_t i, int64_t j) { return {x.data + i * x.row + j * x.col, x.row, x.col}; }

// The block of c whose corner is (i, j).
void multiply_block(const Problem& p, tile::Matrix<double> a, tile::Matrix<double> b, double* c, int64_t i, int64_t j) {
  const int64_t m = std::min(kBlock, p.m - i), n = std::min(kBlock, p.n - j);
  double* c_ij = c + i * p.c_stride + j;
  if (!p.accumulate)
    for (int64_t r = 0; r < m; ++r) std::fill_n(c_ij + r * p.c_stride, n, 0.0);

  std::array<double, kDepth * kBlock> panel;
  for (int64_t l = 0; l < p.k; l += kDepth) {
    const int64_t k = std::min(kDepth, p.k - l);
    tile::Matrix<double> b_lj = from(b, l, j);
    if (p.transpose_b) {
      tile::transpose(n, k, b_lj.data, p.b_stride, panel.data(), kBlock);
      b_lj = {panel.data(), kBlock};
    }
    vectorized<tile::multiply_add<double>>(m, n, k, from(a, i, l), b_lj.data, b_lj.row, c_ij, p.c_stride);
  }
}

void multiply_in_fp64(const MatMul& product, const Problem& p) {
  const tile::Matrix<double> a = operand(product.a, p.a_stride, p.transpose_a), b = operand(product.b, p.b_stride, p.transpose_b);
  double* c = product.c.data<double>();
  const int64_t blocks_of_m = (p.m + kBlock - 1) / kBlock, blocks_of_n = (p.n + kBlock - 1) / kBlock;
  parallel_for(blocks_of_m * blocks_of_n,
               [&](int64_t block) { multiply_block(p, a, b, c, block / blocks_of_n * kBlock, block % blocks_of_n * kBlock); });
}

}  // namespace

void launch(Cpu, const MatMul& product) {
  const Problem problem = problem_of(product);
  if (problem.m == 0 || problem.n == 0) return;
  if (problem.k == 0) {
    if (!product.accumulate) product.c.fill(0);
  } else if (problem.in == DType::kFloat64) {
    multiply_in_fp64(product, problem);
  } else if (problem.in == DType::kBFloat16 && !multiplies_bf16_fast()) {
    multiply_in_fp32(product);
  } else {
    multiply_by_onednn(product, problem);
  }
}

}  // namespace ropewalk
