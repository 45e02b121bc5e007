// Dense products are cuBLASLt's; this file tells it what the instruction means.

#include <map>
#include <tuple>

#include "kernels/cuda/cublas_lt.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/elementwise/elementwise.h"
#include "kernels/matmul/empty_sums.h"
#include "kernels/matmul/matmul.h"

namespace omni {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // NVIDIA's advice for Hopper; older cards need less

const CublasLt& lt() { return cublas_lt(); }
void check_blas(cublasStatus_t status, const char* call) { omni::check_blas(status, call, Matmul::name); }

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// All that decides how a product is computed.
using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool, bool, bool, bool, DType, DType, void*>;

// cuBLASLt counts matrices column by column, so it sees each of ours transposed and computes C^T = B^T A^T: our b is
// its first operand, our n its number of rows.
class Product {
 public:
  Product(cublasLtHandle_t blas, const Matmul& op, bool fused_bias) {
    check_blas(lt().cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, op.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, op.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (fused_bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    first_ = layout(op.b, op.transpose_b ? op.k() : op.n(), op.transpose_b ? op.n() : op.k());
    second_ = layout(op.a, op.transpose_a ? op.m() : op.k(), op.transpose_a ? op.k() : op.m());
    result_ = layout(op.c, op.n(), op.m());
    choose(blas);
  }
  Product(const Product&) = delete;
  ~Product() {
    for (const cublasLtMatrixLayout_t each : {first_, second_, result_}) lt().cublasLtMatrixLayoutDestroy(each);
    lt().cublasLtMatmulDescDestroy(product_);
  }

  void run(const CudaContext& cuda, const Matmul& op, bool fused_bias) {
    if (fused_bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, op.bias.data);
    const float alpha = 1, beta = op.accumulate ? 1 : 0;
    check_blas(lt().cublasLtMatmul(static_cast<cublasLtHandle_t>(cuda.blas), product_, &alpha, op.b.data, first_,
                                   op.a.data, second_, &beta, op.c.data, result_, op.c.data, result_, &algorithm_,
                                   cuda.workspace->get(kWorkspaceBytes), kWorkspaceBytes, stream_of(cuda)),
               "cublasLtMatmul");
  }

 private:
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_blas(lt().cublasLtMatmulDescSetAttribute(product_, attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
  }

  static cublasLtMatrixLayout_t layout(const ConstView& view, std::int64_t rows, std::int64_t columns) {
    cublasLtMatrixLayout_t out;
    check_blas(lt().cublasLtMatrixLayoutCreate(&out, type_of(view.dtype), static_cast<std::uint64_t>(rows),
                                               static_cast<std::uint64_t>(columns), rows),
               "cublasLtMatrixLayoutCreate");
    return out;
  }

  void choose(cublasLtHandle_t blas) {
    cublasLtMatmulPreference_t preference;
    check_blas(lt().cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    lt().cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                              sizeof kWorkspaceBytes);
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const cublasStatus_t status = lt().cublasLtMatmulAlgoGetHeuristic(blas, product_, first_, second_, result_, result_,
                                                                      preference, 1, &found, &count);
    lt().cublasLtMatmulPreferenceDestroy(preference);
    check_blas(status != CUBLAS_STATUS_SUCCESS || count > 0 ? status : CUBLAS_STATUS_NOT_SUPPORTED,
               "cublasLtMatmulAlgoGetHeuristic");
    algorithm_ = found.algo;
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t first_ = nullptr, second_ = nullptr, result_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

// The products of this thread: choosing an algorithm takes longer than most of them.
Product& product_of(const CudaContext& cuda, const Matmul& op, bool fused_bias) {
  thread_local std::map<Key, Product> products;
  const Key key{op.m(),        op.n(),     op.k(),     op.transpose_a, op.transpose_b,
                op.accumulate, fused_bias, op.a.dtype, op.c.dtype,     cuda.blas};
  const auto found = products.find(key);
  if (found != products.end()) return found->second;
  return products.try_emplace(key, static_cast<cublasLtHandle_t>(cuda.blas), op, fused_bias).first->second;
}

}  // namespace

void run(const CudaContext& cuda, const Matmul& op) {
  if (op.c.count() == 0) return;
  if (op.k() == 0) return empty_sums(cuda, op);
  // The fused bias must have the type of c, and ours is f32.
  const bool fused_bias = op.bias && op.c.dtype == DType::f32;
  product_of(cuda, op, fused_bias).run(cuda, op, fused_bias);
  if (op.bias && !fused_bias) run(cuda, AddBias{.y = op.c, .x = op.c, .bias = op.bias});
}

}  // namespace omni
