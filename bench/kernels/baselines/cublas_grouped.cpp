// The experts' matrix products by cuBLAS's grouped product. It wants to know on the host how many rows each expert has,
// which our kernels read on the GPU; here the host reads them once, outside of what is timed.

#include <cublas_v2.h>

#include "bench/kernels/baselines/baseline.h"

namespace omni::bench {
namespace {

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string(call) + ": " + cublasGetStatusString(status));
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

struct Destroy {
  void operator()(cublasHandle_t handle) const { cublasDestroy(handle); }
};

// c_e = op(a_e) op(b_e) for each expert e, with a and b as cuBLAS sees them: matrices count column by column, so that
// each of ours is its transpose. c_e has m_e rows and n_e columns.
class GroupedProduct {
 public:
  struct Sizes {
    std::int64_t m, n, k;
  };

  GroupedProduct(Device& device, bool transpose_a, bool transpose_b)
      : device_(device),
        transpose_a_(transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N),
        transpose_b_(transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N) {
    cublasHandle_t handle;
    check(cublasCreate(&handle), "cublasCreate");
    handle_.reset(handle);
    check(cublasSetStream(handle, static_cast<cudaStream_t>(device.cuda_context()->stream)), "cublasSetStream");
  }

  void add(const ConstView& a, const ConstView& b, const View& c, Sizes sizes) {
    const auto narrow = [](std::int64_t size) { return static_cast<int>(size); };
    m_.push_back(narrow(sizes.m));
    n_.push_back(narrow(sizes.n));
    k_.push_back(narrow(sizes.k));
    a_stride_.push_back(narrow(transpose_a_ == CUBLAS_OP_T ? sizes.k : sizes.m));
    b_stride_.push_back(narrow(transpose_b_ == CUBLAS_OP_T ? sizes.n : sizes.k));
    a_.push_back(a.data);
    b_.push_back(b.data);
    c_.push_back(c.data);
    input_ = type_of(a.dtype);
    output_ = type_of(c.dtype);
  }

  // Once all products are known: their addresses must lie in the GPU's memory.
  void upload() {
    const auto on_gpu = [&](const auto& addresses) {
      const Shape shape{static_cast<std::int64_t>(addresses.size())};
      const OwnedTensor& out = memory_.emplace_back(DType::i64, shape, Place::cuda);
      device_.copy(out, ConstView(addresses.data(), DType::i64, shape));
      return out.view().data;
    };
    a_on_gpu_ = static_cast<const void* const*>(on_gpu(a_));
    b_on_gpu_ = static_cast<const void* const*>(on_gpu(b_));
    c_on_gpu_ = static_cast<void* const*>(on_gpu(c_));
  }

  void enqueue() const {
    const std::size_t count = m_.size();
    const std::vector<cublasOperation_t> transpose_a(count, transpose_a_), transpose_b(count, transpose_b_);
    const std::vector<float> one(count, 1), zero(count, 0);
    const std::vector<int> size(count, 1);
    check(cublasGemmGroupedBatchedEx(handle_.get(), transpose_a.data(), transpose_b.data(), m_.data(), n_.data(),
                                     k_.data(), one.data(), a_on_gpu_, input_, a_stride_.data(), b_on_gpu_, input_,
                                     b_stride_.data(), zero.data(), c_on_gpu_, output_, m_.data(),
                                     static_cast<int>(count), size.data(), CUBLAS_COMPUTE_32F),
          "cublasGemmGroupedBatchedEx");
  }

 private:
  Device& device_;
  std::unique_ptr<cublasContext, Destroy> handle_;
  cublasOperation_t transpose_a_, transpose_b_;
  cudaDataType_t input_ = CUDA_R_32F, output_ = CUDA_R_32F;
  std::vector<int> m_, n_, k_, a_stride_, b_stride_;
  std::vector<const void*> a_, b_;
  std::vector<void*> c_;
  std::vector<OwnedTensor> memory_;
  const void* const* a_on_gpu_ = nullptr;
  const void* const* b_on_gpu_ = nullptr;
  void* const* c_on_gpu_ = nullptr;
};

std::function<void()> ready(const std::shared_ptr<GroupedProduct>& product) {
  product->upload();
  return [product] { product->enqueue(); };
}

}  // namespace

// c_e^T [n, rows] = W_e a_e^T
std::function<void()> cublas(Device& device, const GroupedMatmul& op) {
  const auto product = std::make_shared<GroupedProduct>(device, op.transpose_b, false);
  std::vector<OwnedTensor> memory;
  const std::int64_t* offset = device.on_host(op.offset, memory).as<std::int64_t>();
  const std::int64_t n = op.c.width(), k = op.a.width();
  for (std::int64_t e = 0; e < op.experts(); ++e) {
    const std::int64_t first = offset[e], rows = offset[e + 1] - first;
    product->add(slice(op.b, e * n * k, {n, k}), slice(op.a, first * k, {rows, k}), slice(op.c, first * n, {rows, n}),
                 {n, rows, k});
  }
  return ready(product);
}

// dw_e^T [k, n] = x_e^T dy_e, in f32 also where x and dy are bf16, as ours; a cuBLAS that lacks this mixture says so.
std::function<void()> cublas(Device& device, const GroupedMatmulWeightGradient& op) {
  const auto product = std::make_shared<GroupedProduct>(device, false, true);
  std::vector<OwnedTensor> memory;
  const std::int64_t* offset = device.on_host(op.offset, memory).as<std::int64_t>();
  const std::int64_t n = op.dy.width(), k = op.x.width();
  for (std::int64_t e = 0; e < op.experts(); ++e) {
    const std::int64_t first = offset[e], rows = offset[e + 1] - first;
    product->add(slice(op.x, first * k, {rows, k}), slice(op.dy, first * n, {rows, n}), slice(op.dw, e * n * k, {n, k}),
                 {k, n, rows});
  }
  return ready(product);
}

}  // namespace omni::bench
