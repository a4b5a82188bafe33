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

// cuBLASLt's view of a product, made once: choosing takes it tens of microseconds.
class Plan {
 public:
  explicit Plan(const Question& question) : p_(question.problem) {
    describe();
    lay_out(a_, p_.transpose_a ? p_.k : p_.m, p_.transpose_a ? p_.m : p_.k, p_.a_stride, p_.in);
    lay_out(b_, p_.transpose_b ? p_.n : p_.k, p_.transpose_b ? p_.k : p_.n, p_.b_stride, p_.in);
    lay_out(c_, p_.m, p_.n, p_.c_stride, p_.out);
    choose(question);
  }
  Plan(const Plan&) = delete;  // whether descriptors may be copied is not said
  Plan& operator=(const Plan&) = delete;

  void multiply(const MatMul& product) {
    const float one = 1, zero = 0;
    const Tensor workspace = Tensor::empty({static_cast<int64_t>(choice_.workspaceSize)}, DType::kUInt8, Cuda{});
    check(cublasLtMatmul(handle_for(p_), &operation_, &one, product.b.raw(), &b_, product.a.raw(), &a_, p_.accumulate ? &one : &zero,
                         product.c.raw(), &c_, product.c.raw(), &c_, &choice_.algo, workspace.raw(), choice_.workspaceSize,
                         cuda::compute_stream()),
          "cublasLtMatmul", p_);
  }

 private:
  void describe() {
    check(cublasLtMatmulDescInit(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit", p_);
    const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
      const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      check(cublasLtMatmulDescSetAttribute(&operation_, which, &op, sizeof op), "cublasLtMatmulDescSetAttribute", p_);
    };
    transpose(CUBLASLT_MATMUL_DESC_TRANSA, p_.transpose_b);
    transpose(CUBLASLT_MATMUL_DESC_TRANSB, p_.transpose_a);
  }

  // One of our matrices, as it lies in memory.
  void lay_out(cublasLtMatrixLayoutOpaque_t& layout, int64_t rows, int64_t columns, int64_t stride, DType dtype) {
    check(cublasLtMatrixLayoutInit(&layout, type_of(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), stride),
          "cublasLtMatrixLayoutInit", p_);
  }

  void choose(const Question& question) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit", p_);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(&preference, which, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute", p_);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    // Long sums may be cut into parts that are added up in order, in fp32, in the workspace; not in c, in c's type.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, question.b_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, question.a_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, question.c_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, question.c_alignment);
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_for(p_), &operation_, &b_, &a_, &c_, &c_, &preference, 1, &choice_, &found),
          "cublasLtMatmulAlgoGetHeuristic", p_);
    check(found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : choice_.state, "cublasLtMatmulAlgoGetHeuristic", p_);
  }

  Problem p_;
  cublasLtMatmulDescOpaque_t operation_;
  cublasLtMatrixLayoutOpaque_t a_, b_, c_;
  cublasLtMatmulHeuristicResult_t choice_{};
};

void multiply(const MatMul& product, const Question& question) {
  constexpr size_t kMost = 512;  // ever new prompt lengths must not grow the cache for ever
  static std::mutex mutex;
  static std::map<Question, Plan> plans;
  const std::scoped_lock lock(mutex);
  if (plans.size() == kMost) plans.clear();
  plans.try_emplace(question, question).first->second.multiply(product);
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
  multiply(product, question);
}

}  // namespace ropewalk
