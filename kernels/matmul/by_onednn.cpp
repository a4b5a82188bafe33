// fp32 and bf16 products by oneDNN. The only file that multiplies by it.
#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/matmul/problem.h"
#include "kernels/tensor/isa.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk::matmul {
namespace {

// oneDNN cuts a product by the number of threads, also along k, so its sums depend on it. Here we cut c into blocks by the shape alone
// and let oneDNN compute each on one thread: the same bits on any number of threads, at no less speed (its packing costs as much either
// way, and blocks of 256 rows suit its transposition of a better than whole columns do).
constexpr int64_t kBlockRows = 256, kBlockColumns = 512;

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
      : rows(even_extent(p.m, kBlockRows, 32)),
        columns(even_extent(p.n, kBlockColumns, 32)),
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

}  // namespace

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

}  // namespace ropewalk::matmul
