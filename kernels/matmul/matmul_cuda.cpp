// fp32 and bf16 products by cuBLASLt. It takes matrices by columns, so it is asked for the transposed product: c^T = op(b)^T op(a)^T, in
// which the rows of each of our matrices are its columns.
#include <cublasLt.h>

#include <bit>
#include <map>
#include <mutex>

#include "kernels/cuda/runtime.h"
#include "kernels/matmul/problem.h"

namespace ropewalk {
namespace matmul {
namespace {

constexpr uint64_t kMostWorkspace = 32 << 20;  // bytes: what NVIDIA advises for Hopper

void check(cublasStatus_t status, const char* call, const Problem& p) {
  constexpr int kDeviceFailed = 5;  // exit code
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(kDeviceFailed, fmt::format("{}: {} (of [{}, {}] by [{}, {}], {} -> {})", call, cublasLtGetStatusString(status), p.m, p.k, p.k,
                                         p.n, p.in, p.out));
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return CUDA_R_32F;
    case DType::kBFloat16: return CUDA_R_16BF;
    default: throw ShapeError(fmt::format("matmul: expected fp32 or bf16 on a GPU, given {}", dtype));
  }
}

// The largest power of two, up to what cuBLASLt asks for, that divides an address.
uint32_t alignment_of(const Tensor& x) {
  constexpr uintptr_t kMost = 256;
  return static_cast<uint32_t>(std::min(kMost, uintptr_t{1} << std::countr_zero(reinterpret_cast<uintptr_t>(x.raw()))));
}

// All that cuBLASLt's choice depends on: the same choice, and so the same bits, wherever it is asked for.
struct Question {
  Problem problem;
  uint32_t a_alignment, b_alignment, c_alignment;
  auto operator<=>(const Question&) const = default;
};

// cuBLASLt's handle, which this program never gives back.
cublasLtHandle_t handle_for(const Problem& p) {
  static const cublasLtHandle_t handle = [&] {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate", p);
    return made;
  }();
  return handle;
}

// What one of our row-major matrices, as it lies in memory, is to cuBLASLt.
cublasLtMatrixLayoutOpaque_t layout_of(int64_t rows, int64_t columns, int64_t stride, DType dtype, const Problem& p) {
  cublasLtMatrixLayoutOpaque_t layout;
  check(cublasLtMatrixLayoutInit(&layout, type_of(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), stride),
        "cublasLtMatrixLayoutInit", p);
  return layout;
}

cublasLtMatmulDescOpaque_t operation_of(const Problem& p) {
  cublasLtMatmulDescOpaque_t operation;
  check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit", p);
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(&operation, which, &op, sizeof op), "cublasLtMatmulDescSetAttribute", p);
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a);
  return operation;
}

cublasLtMatmulPreferenceOpaque_t preference_of(const Question& question) {
  cublasLtMatmulPreferenceOpaque_t preference;
  const Problem& p = question.problem;
  check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit", p);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute", p);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
  // Long sums may be cut into parts that are added up in order, in fp32, in the workspace; not in c, in c's type.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, question.b_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, question.a_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, question.c_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, question.c_alignment);
  return preference;
}

struct Plan {
  explicit Plan(const Question& question)
      : p(question.problem),
        operation(operation_of(p)),
        a(layout_of(p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.a_stride, p.in, p)),
        b(layout_of(p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.b_stride, p.in, p)),
        c(layout_of(p.m, p.n, p.c_stride, p.out, p)) {
    cublasLtMatmulPreferenceOpaque_t preference = preference_of(question);
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_for(p), &operation, &b, &a, &c, &c, &preference, 1, &choice, &found),
          "cublasLtMatmulAlgoGetHeuristic", p);
    check(found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : choice.state, "cublasLtMatmulAlgoGetHeuristic", p);
  }

  void multiply(const MatMul& product) {
    const float one = 1, zero = 0;
    const Tensor workspace = Tensor::empty({static_cast<int64_t>(choice.workspaceSize)}, DType::kUInt8, Cuda{});
    check(cublasLtMatmul(handle_for(p), &operation, &one, product.b.raw(), &b, product.a.raw(), &a, p.accumulate ? &one : &zero,
                         product.c.raw(), &c, product.c.raw(), &c, &choice.algo, workspace.raw(), choice.workspaceSize,
                         cuda::compute_stream()),
          "cublasLtMatmul", p);
  }

  Problem p;
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulHeuristicResult_t choice{};
};

// Plans are kept: cuBLASLt takes tens of microseconds to choose.
Plan plan_of(const Question& question) {
  constexpr size_t kMost = 512;  // ever new prompt lengths must not grow the cache for ever
  static std::mutex mutex;
  static std::map<Question, Plan> plans;
  const std::scoped_lock lock(mutex);
  if (plans.size() == kMost) plans.clear();
  return plans.try_emplace(question, question).first->second;
}

}  // namespace
}  // namespace matmul

void launch(Cuda, const MatMul& product) {
  using namespace matmul;
  const Problem problem = problem_of(product);
  type_of(problem.in);
  if (problem.m == 0 || problem.n == 0) return;
  if (problem.k == 0) {
    if (!product.accumulate) product.c.fill(0);
    return;
  }
  const Question question{.problem = problem,
                          .a_alignment = alignment_of(product.a),
                          .b_alignment = alignment_of(product.b),
                          .c_alignment = alignment_of(product.c)};
  plan_of(question).multiply(product);
}

}  // namespace ropewalk
