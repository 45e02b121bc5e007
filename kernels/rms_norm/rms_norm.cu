#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace omni {
namespace {

// In all kernels one warp owns a row at a time, and a lane `Size` neighbouring values of every 32 * Size: as many as 16
// bytes of the f32 weight hold, so that neighbours read neighbouring 16 bytes of it, or 1 where rows do not begin on
// them. What a second pass over a row reads is still in the cache.

constexpr int kWarps = 4, kBlock = kWarps * kWarp;  // of the forward kernels

template <int Size>
__device__ int first_column() {
  return static_cast<int>(threadIdx.x % kWarp) * Size;
}

template <class T, int Size>
__device__ float sum_of_squares(const Pack<T, Size>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Size; ++i) sum += widen(x.lane[i]) * widen(x.lane[i]);
  return sum;
}

// y = x * rstd * weight, all [width]. `squares` is what this lane's values add up to. Returns rstd.
template <class T, int Size>
__device__ float normalize_row(T* __restrict__ y, const T* x, const float* __restrict__ weight, float squares,
                               int width, float eps) {
  const float rstd = 1.f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> in = load_pack<Size>(x + column);
    const Pack<float, Size> w = load_pack<Size>(weight + column);
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(widen(in.lane[i]) * rstd * w.lane[i]);
    store_pack(y + column, out);
  }
  return rstd;
}

// A block owns kWarps rows. No shared memory. Must move x and y.
template <class T, int Size>
__global__ void rms_norm_kernel(T* __restrict__ y,                 // [rows, width]
                                float* __restrict__ rstd,          // [rows] or null
                                const T* __restrict__ x,           // [rows, width]
                                const float* __restrict__ weight,  // [width]
                                std::int64_t rows, int width, float eps) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const T* x_row = x + row * width;
  float squares = 0;
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size)
    squares += sum_of_squares(load_pack<Size>(x_row + column));
  const float r = normalize_row<T, Size>(y + row * width, x_row, weight, squares, width, eps);
  if (rstd != nullptr && threadIdx.x % kWarp == 0) rstd[row] = r;
}

// As rms_norm_kernel, after sum = x + residual. sum may be x or residual, so a lane loads a few packs before it stores
// them. Must move x, residual, sum and y.
template <class T, int Size>
__global__ void add_rms_norm_kernel(T* sum, T* __restrict__ y,         // [rows, width]
                                    float* __restrict__ rstd,          // [rows] or null
                                    const T* x, const T* residual,     // [rows, width]
                                    const float* __restrict__ weight,  // [width]
                                    std::int64_t rows, int width, float eps) {
  constexpr int kPacks = 2, kStep = kWarp * Size;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const T *x_row = x + row * width, *residual_row = residual + row * width;
  T* sum_row = sum + row * width;
  float squares = 0;
  for (int first = first_column<Size>(); first < width; first += kPacks * kStep) {
    Pack<T, Size> a[kPacks], b[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (first + k * kStep < width) {
        a[k] = load_pack<Size>(x_row + first + k * kStep);
        b[k] = load_pack<Size>(residual_row + first + k * kStep);
      }
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (first + k * kStep < width) {
        Pack<T, Size> out;
#pragma unroll
        for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(widen(a[k].lane[i]) + widen(b[k].lane[i]));
        store_pack(sum_row + first + k * kStep, out);
        squares += sum_of_squares(out);
      }
  }
  const float r = normalize_row<T, Size>(y + row * width, sum_row, weight, squares, width, eps);
  if (rstd != nullptr && threadIdx.x % kWarp == 0) rstd[row] = r;
}

// mean(g * h) * rstd of a row of dy and one of x, with g and h as in rms_norm.h, in every lane.
template <class T, int Size>
__device__ float shift_of(const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ weight,
                          float rstd, int width) {
  float product = 0;
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> d = load_pack<Size>(dy + column), in = load_pack<Size>(x + column);
    const Pack<float, Size> w = load_pack<Size>(weight + column);
#pragma unroll
    for (int i = 0; i < Size; ++i) product += widen(d.lane[i]) * w.lane[i] * widen(in.lane[i]);
  }
  return warp_sum(product) * rstd * rstd / static_cast<float>(width);
}

// One pack of a row: dx, unless it is null, and what it adds to dweight, unless that is null.
template <class T, int Size>
__device__ void backward_pack(T* dx, Pack<float, Size>* dweight, const T* __restrict__ dy, const T* __restrict__ x,
                              const float* __restrict__ weight, float rstd, float shift, bool accumulate_dx) {
  const Pack<T, Size> d = load_pack<Size>(dy), in = load_pack<Size>(x);
  if (dweight != nullptr) {
    Pack<float, Size> sum = *dweight;
#pragma unroll
    for (int i = 0; i < Size; ++i) sum.lane[i] += widen(d.lane[i]) * widen(in.lane[i]) * rstd;
    *dweight = sum;
  }
  if (dx == nullptr) return;
  const Pack<float, Size> w = load_pack<Size>(weight);
  const Pack<T, Size> old = accumulate_dx ? load_pack<Size>(dx) : Pack<T, Size>{};
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i)
    out.lane[i] = narrow<T>(widen(old.lane[i]) + rstd * (widen(d.lane[i]) * w.lane[i] - widen(in.lane[i]) * shift));
  store_pack(dx, out);
}

// A block owns rows_per_block rows, its warps take turns. Each warp adds up its share of dweight in shared memory,
// `window` floats per warp, and at the end the block writes the sum of those shares; where rows are wider than a
// window, all of this happens once for each window. Must move dy, x, dx (twice to accumulate), and the partial sums.
template <class T, int Size>
__global__ void rms_norm_backward_kernel(T* dx,                             // [rows, width] or null
                                         float* __restrict__ partials,      // [gridDim.x, width] or null
                                         const T* __restrict__ dy,          // [rows, width]
                                         const T* __restrict__ x,           // [rows, width]
                                         const float* __restrict__ rstd,    // [rows]
                                         const float* __restrict__ weight,  // [width]
                                         std::int64_t rows, std::int64_t rows_per_block, int width, int window,
                                         bool accumulate_dx) {
  extern __shared__ float4 shared[];
  float* sums = reinterpret_cast<float*>(shared);
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t begin = blockIdx.x * rows_per_block, end = min(begin + rows_per_block, rows);
  for (int left = 0; left < width; left += window) {
    const int count = min(window, width - left);
    Pack<float, Size>* share = reinterpret_cast<Pack<float, Size>*>(sums + warp * window);
    if (partials == nullptr) share = nullptr;
    for (int column = first_column<Size>(); share != nullptr && column < count; column += kWarp * Size)
      share[column / Size] = {};
    for (std::int64_t row = begin + warp; row < end; row += warps) {
      const T *dy_row = dy + row * width, *x_row = x + row * width;
      T* dx_row = dx == nullptr ? nullptr : dx + row * width + left;
      const float r = rstd[row], shift = dx == nullptr ? 0.f : shift_of<T, Size>(dy_row, x_row, weight, r, width);
#pragma unroll 2
      for (int column = first_column<Size>(); column < count; column += kWarp * Size)
        backward_pack<T, Size>(dx == nullptr ? nullptr : dx_row + column,
                               share == nullptr ? nullptr : share + column / Size, dy_row + left + column,
                               x_row + left + column, weight + left + column, r, shift, accumulate_dx);
    }
    if (partials == nullptr) continue;
    __syncthreads();
    for (int column = threadIdx.x; column < count; column += blockDim.x) {
      float sum = 0;
      for (int i = 0; i < warps; ++i) sum += sums[i * window + column];
      partials[std::int64_t{blockIdx.x} * width + left + column] = sum;
    }
    __syncthreads();
  }
}

}  // namespace

void run(const CudaContext& cuda, const RmsNorm& op) {
  if (op.y.count() == 0) return;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<float>(width, [&]<int Size>() {
      rms_norm_kernel<T, Size><<<blocks_for(rows, kWarps), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.rstd.as<float>(), op.x.as<T>(), op.weight.as<float>(), rows, static_cast<int>(width),
          op.eps);
    });
  });
  check_launch(RmsNorm::name);
}

void run(const CudaContext& cuda, const AddRmsNorm& op) {
  if (op.y.count() == 0) return;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<float>(width, [&]<int Size>() {
      add_rms_norm_kernel<T, Size><<<blocks_for(rows, kWarps), kBlock, 0, stream_of(cuda)>>>(
          op.sum.as<T>(), op.y.as<T>(), op.rstd.as<float>(), op.x.as<T>(), op.residual.as<T>(), op.weight.as<float>(),
          rows, static_cast<int>(width), op.eps);
    });
  });
  check_launch(AddRmsNorm::name);
}

void run(const CudaContext& cuda, const RmsNormBackward& op) {
  const std::int64_t rows = op.dy.rows(), width = op.dy.width();
  if (width == 0 || (!op.dx && !op.dweight)) return;
  float* partials = nullptr;
  std::int64_t parts = 0;
  if (rows > 0) {
    const RowSumsPlan plan(cuda, rows, width, op.dweight ? 1 : 0);
    parts = plan.blocks;
    if (op.dweight)
      partials = reinterpret_cast<float*>(cuda.workspace->get(static_cast<std::size_t>(parts * width) * sizeof(float)));
    dispatch_cuda(op.dy.dtype, [&]<class T>() {
      dispatch_pack<float>(width, [&]<int Size>() {
        rms_norm_backward_kernel<T, Size>
            <<<static_cast<unsigned>(parts), plan.warps * kWarp, plan.shared_bytes, stream_of(cuda)>>>(
                op.dx.as<T>(), partials, op.dy.as<T>(), op.x.as<T>(), op.rstd.as<float>(), op.weight.as<float>(), rows,
                plan.rows_per_block, static_cast<int>(width), plan.window, op.accumulate_dx);
      });
    });
    check_launch(RmsNormBackward::name);
  }
  if (op.dweight)
    add_partials(cuda, RmsNormBackward::name, partials, parts, width, {op.dweight.as<float>(), op.accumulate});
}

}  // namespace omni
