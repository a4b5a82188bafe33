// The stand-in cuBLASLt: see tests/gpusim/include/cublasLt.h. It refuses what the real one refuses, and an algorithm that was chosen for
// another product, or for stricter alignments than those it meets.
#include <cublasLt.h>

#include <algorithm>
#include <vector>

#include "kernels/tensor/bfloat16.h"
#include "tests/gpusim/memory.h"
#include "tests/gpusim/stream.h"

namespace {

using ropewalk::bfloat16;

constexpr size_t kWorkspaceAlignment = 256;

size_t bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

double read(const void* data, size_t i, cudaDataType_t type) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[i] : float{static_cast<const bfloat16*>(data)[i]};
}
void write(void* data, size_t i, cudaDataType_t type, double value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[i] = static_cast<float>(value);
  else
    static_cast<bfloat16*>(data)[i] = static_cast<bfloat16>(static_cast<float>(value));
}

// D [m, n] = A [m, k] B [k, n].
struct Product {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;

  uint64_t m() const { return operation.a == CUBLAS_OP_N ? a.rows : a.columns; }
  uint64_t k() const { return operation.a == CUBLAS_OP_N ? a.columns : a.rows; }
  uint64_t n() const { return operation.b == CUBLAS_OP_N ? b.columns : b.rows; }
  uint64_t k_of_b() const { return operation.b == CUBLAS_OP_N ? b.rows : b.columns; }

  bool fits() const {
    return k() == k_of_b() && m() > 0 && n() > 0 && k() > 0 && c.rows == m() && c.columns == n() && d.rows == m() && d.columns == n();
  }
  bool supported() const {
    return operation.compute == CUBLAS_COMPUTE_32F && operation.scale == CUDA_R_32F && a.type == b.type && c.type == d.type &&
           (c.type == CUDA_R_32F || c.type == a.type);
  }
  // Tells products apart.
  uint64_t key() const {
    uint64_t key = 0xcbf29ce484222325ull;
    const auto mix = [&](uint64_t x) { key = (key ^ x) * 0x100000001b3ull; };
    mix(static_cast<uint64_t>(operation.a));
    mix(static_cast<uint64_t>(operation.b));
    for (const auto* layout : {&a, &b, &c, &d}) {
      mix(static_cast<uint64_t>(layout->type));
      mix(layout->rows);
      mix(layout->columns);
      mix(static_cast<uint64_t>(layout->ld));
    }
    return key;
  }
};

// Column by column of D, so that all inner loops are over rows.
void multiply(const Product& p, float alpha, const void* a, const void* b, float beta, const void* c, void* d) {
  const auto dense = [](const void* data, const cublasLtMatrixLayoutOpaque_t& layout, bool transpose) {
    std::vector<double> by_columns(layout.rows * layout.columns);
    for (size_t j = 0; j < layout.columns; ++j)
      for (size_t i = 0; i < layout.rows; ++i)
        by_columns[transpose ? i * layout.columns + j : j * layout.rows + i] =
            read(data, j * static_cast<size_t>(layout.ld) + i, layout.type);
    return by_columns;
  };
  const std::vector<double> left = dense(a, p.a, p.operation.a == CUBLAS_OP_T), right = dense(b, p.b, p.operation.b == CUBLAS_OP_T);
  const size_t m = p.m(), k = p.k();
  std::vector<double> column(m);
  for (size_t j = 0; j < p.n(); ++j) {
    std::fill(column.begin(), column.end(), 0.0);
    for (size_t l = 0; l < k; ++l)
      for (size_t i = 0; i < m; ++i) column[i] += left[l * m + i] * right[j * k + l];
    for (size_t i = 0; i < m; ++i) {
      const double before = beta == 0 ? 0.0 : beta * read(c, j * static_cast<size_t>(p.c.ld) + i, p.c.type);
      write(d, j * static_cast<size_t>(p.d.ld) + i, p.d.type, alpha * column[i] + before);
    }
  }
}

bool aligned(const void* data, uint32_t alignment) { return reinterpret_cast<uintptr_t>(data) % alignment == 0; }

template <class T>
bool store(T& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof(T)) return false;
  std::memcpy(&to, value, bytes);
  return true;
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "not initialized";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
  }
  return "unknown error";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static char context;
  *handle = reinterpret_cast<cublasLtHandle_t>(&context);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t ld) {
  *layout = {.type = type, .rows = rows, .columns = columns, .ld = ld};
  return ld >= 0 && static_cast<uint64_t>(ld) >= rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t operation, cublasComputeType_t compute, cudaDataType_t scale) {
  *operation = {.compute = compute, .scale = scale, .a = CUBLAS_OP_N, .b = CUBLAS_OP_N};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t which, const void* value,
                                              size_t bytes) {
  const bool stored = which == CUBLASLT_MATMUL_DESC_TRANSA ? store(operation->a, value, bytes) : store(operation->b, value, bytes);
  return stored ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  *preference = {.workspace = 0, .reductions = CUBLASLT_REDUCTION_SCHEME_MASK, .alignments = {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t which,
                                                    const void* value, size_t bytes) {
  bool stored = false;
  switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: stored = store(preference->workspace, value, bytes); break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: stored = store(preference->reductions, value, bytes); break;
    default: stored = store(preference->alignments[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  }
  return stored ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

// Long sums ask for room, where there may be some, as those do that are cut into parts.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Product product{*operation, *a, *b, *c, *d};
  *found = 0;
  if (wanted < 1 || !product.fits()) return CUBLAS_STATUS_INVALID_VALUE;
  if (!product.supported()) return CUBLAS_STATUS_NOT_SUPPORTED;
  cublasLtMatmulAlgo_t algo{.product = product.key(), .workspace = 0, .alignments = {}};
  std::copy_n(preference->alignments, 4, algo.alignments);
  const uint64_t room = 2 * sizeof(float) * product.m() * product.n();
  const bool in_parts =
      preference->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE && product.k() > 2 * std::max(product.m(), product.n());
  if (in_parts && room <= preference->workspace) algo.workspace = room;
  results[0] = {.algo = algo, .workspaceSize = algo.workspace, .state = CUBLAS_STATUS_SUCCESS};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* A,
                              cublasLtMatrixLayout_t a, const void* B, cublasLtMatrixLayout_t b, const void* beta, const void* C,
                              cublasLtMatrixLayout_t c, void* D, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Product product{*operation, *a, *b, *c, *d};
  if (!product.fits() || algo->product != product.key() || workspace_bytes < algo->workspace) return CUBLAS_STATUS_INVALID_VALUE;
  if (algo->workspace > 0 && (!gpusim::in_device_memory(workspace) || !aligned(workspace, kWorkspaceAlignment)))
    return CUBLAS_STATUS_INVALID_VALUE;
  const void* const operands[] = {A, B, C, D};
  const cublasLtMatrixLayout_t layouts[] = {a, b, c, d};
  for (size_t i = 0; i < 4; ++i)
    if (!gpusim::in_device_memory(operands[i]) || !aligned(operands[i], algo->alignments[i]) ||
        !aligned(operands[i], static_cast<uint32_t>(bytes_of(layouts[i]->type))))
      return CUBLAS_STATUS_INVALID_VALUE;
  const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  stream->push([=, room = algo->workspace] {
    if (room > 0) std::memset(workspace, 0xff, room);
    multiply(product, by, A, B, keep, C, D);
  });
  return CUBLAS_STATUS_SUCCESS;
}
