#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/elementwise/elementwise.h"

namespace omni {
namespace {

constexpr int kWarps = 8, kBlock = kWarps * kWarp;

struct Constant {
  float value;
  __device__ float operator()() const { return value; }
};

struct Identity {
  __device__ float operator()(float x) const { return x; }
};

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Product {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};

// One thread owns 16 bytes of x, or what is left of them at the end. No shared memory. Must move x twice, and nothing
// but the factor if that is 1.
template <class T, class F>
__global__ void scale_by_scalar_kernel(T* x, const F* factor, std::int64_t count) {  // x [count], factor [1]
  constexpr int kSize = kPackSize<T>;
  const float by = widen(*factor);
  if (by == 1.f) return;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * kSize;
  if (first + kSize <= count) {
    Pack<T, kSize> pack = load_pack<kSize>(x + first);
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack.lane[i] = narrow<T>(by * widen(pack.lane[i]));
    store_pack(x + first, pack);
  } else {
    for (std::int64_t i = first; i < count; ++i) x[i] = narrow<T>(by * widen(x[i]));
  }
}

constexpr int kBiasRows = 4;  // rows of a thread

// A block owns 32 * Size columns (blockIdx.y) of kWarps * kBiasRows rows (blockIdx.x), a thread `Size` columns of
// kBiasRows of them: as many as 16 bytes of the bias hold, so that neighbours read neighbouring 16 bytes of it, or 1
// where rows do not begin on them. No shared memory. Must move y and x.
template <class T, int Size>
__global__ void add_bias_kernel(T* y, const T* x, const float* __restrict__ bias, std::int64_t rows,
                                std::int64_t width) {  // y, x [rows, width], bias [width]
  const int column = (blockIdx.y * kWarp + threadIdx.x % kWarp) * Size;
  if (column >= width) return;
  const Pack<float, Size> b = load_pack<Size>(bias + column);
  const std::int64_t first = std::int64_t{blockIdx.x} * kWarps * kBiasRows + threadIdx.x / kWarp;
  Pack<T, Size> in[kBiasRows];
#pragma unroll
  for (int k = 0; k < kBiasRows; ++k)
    if (first + k * kWarps < rows) in[k] = load_pack<Size>(x + (first + k * kWarps) * width + column);
#pragma unroll
  for (int k = 0; k < kBiasRows; ++k) {
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(widen(in[k].lane[i]) + b.lane[i]);
    if (first + k * kWarps < rows) store_pack(y + (first + k * kWarps) * width + column, out);
  }
}

// A block owns 32 * Size columns (blockIdx.x) of rows_per_part rows (blockIdx.y), a thread `Size` columns of every 8th
// of them; the 8 sums of a column meet in shared memory, 1 KB * Size. Must move dy once.
template <class T, int Size>
__global__ void bias_backward_kernel(float* __restrict__ partials,  // [gridDim.y, width]
                                     const T* __restrict__ dy,      // [rows, width]
                                     std::int64_t rows, std::int64_t width, std::int64_t rows_per_part) {
  constexpr int kColumns = kWarp * Size;
  __shared__ Pack<float, Size> sums[kWarps][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::int64_t begin = std::int64_t{blockIdx.y} * rows_per_part, end = min(begin + rows_per_part, rows),
                     left = std::int64_t{blockIdx.x} * kColumns, column = left + lane * Size;
  Pack<float, Size> sum = {};
  if (column < width) {
#pragma unroll 4
    for (std::int64_t row = begin + warp; row < end; row += kWarps) {
      const Pack<T, Size> d = load_pack<Size>(dy + row * width + column);
#pragma unroll
      for (int i = 0; i < Size; ++i) sum.lane[i] += widen(d.lane[i]);
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (threadIdx.x >= kColumns || left + threadIdx.x >= width) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += sums[i][threadIdx.x / Size].lane[threadIdx.x % Size];
  partials[blockIdx.y * width + left + threadIdx.x] = total;
}

// Rows for one block of bias_backward_kernel: few enough to keep the GPU busy, enough that the partial sums are little
// beside dy.
std::int64_t rows_per_part(std::int64_t rows) {
  constexpr std::int64_t kLeastRows = 32, kMostParts = 64;
  return std::max(kLeastRows, ceil_div(rows, kMostParts));
}

}  // namespace

void run(const CudaContext& cuda, const Fill& op) {
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    map(cuda, Fill::name, Constant{static_cast<float>(op.value)}, op.y.count(), op.y.as<T>());
  });
}

void run(const CudaContext& cuda, const Copy& op) {
  if (op.y.count() == 0) return;
  if (op.y.dtype == op.x.dtype) {
    check_cuda(cudaMemcpyAsync(op.y.data, op.x.data, static_cast<std::size_t>(op.y.bytes()), cudaMemcpyDefault,
                               stream_of(cuda)),
               "cudaMemcpyAsync", Copy::name);
    return;
  }
  dispatch_cuda(op.y.dtype, [&]<class Y>() {
    dispatch_cuda(op.x.dtype,
                  [&]<class X>() { map(cuda, Copy::name, Identity(), op.y.count(), op.y.as<Y>(), op.x.as<X>()); });
  });
}

void run(const CudaContext& cuda, const Add& op) {
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    map(cuda, Add::name, Sum(), op.y.count(), op.y.as<T>(), op.a.as<T>(), op.b.as<T>());
  });
}

void run(const CudaContext& cuda, const Scale& op) {
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    map(cuda, Scale::name, Product{static_cast<float>(op.factor)}, op.y.count(), op.y.as<T>(), op.x.as<T>());
  });
}

void run(const CudaContext& cuda, const ScaleByScalar& op) {
  if (op.x.count() == 0) return;
  dispatch_cuda(op.x.dtype, [&]<class T>() {
    dispatch_cuda(op.factor.dtype, [&]<class F>() {
      scale_by_scalar_kernel<<<blocks_for(op.x.count(), kBlock * kPackSize<T>), kBlock, 0, stream_of(cuda)>>>(
          op.x.as<T>(), op.factor.as<F>(), op.x.count());
    });
  });
  check_launch(ScaleByScalar::name);
}

void run(const CudaContext& cuda, const AddBias& op) {
  if (op.y.count() == 0) return;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<float>(width, [&]<int Size>() {
      const dim3 grid(blocks_for(rows, kWarps * kBiasRows), blocks_for(width, kWarp * Size));
      add_bias_kernel<T, Size>
          <<<grid, kBlock, 0, stream_of(cuda)>>>(op.y.as<T>(), op.x.as<T>(), op.bias.as<float>(), rows, width);
    });
  });
  check_launch(AddBias::name);
}

void run(const CudaContext& cuda, const BiasBackward& op) {
  if (!op.dbias || op.dbias.count() == 0) return;
  const std::int64_t rows = op.dy.rows(), width = op.dy.width(), part = rows_per_part(rows),
                     parts = ceil_div(rows, part);
  auto* partials =
      reinterpret_cast<float*>(cuda.workspace->get(static_cast<std::size_t>(parts * width) * sizeof(float)));
  if (parts > 0) {
    dispatch_cuda(op.dy.dtype, [&]<class T>() {
      dispatch_pack<float>(width, [&]<int Size>() {
        const dim3 grid(blocks_for(width, kWarp * Size), static_cast<unsigned>(parts));
        bias_backward_kernel<T, Size><<<grid, kBlock, 0, stream_of(cuda)>>>(partials, op.dy.as<T>(), rows, width, part);
      });
    });
    check_launch(BiasBackward::name);
  }
  add_partials(cuda, BiasBackward::name, partials, parts, width, {op.dbias.as<float>(), op.accumulate});
}

}  // namespace omni
