#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/layer_norm/layer_norm.h"

namespace omni {
namespace {

// In both kernels one warp owns a row at a time, and a lane `Size` neighbouring values of every 32 * Size: as many as
// 16 bytes of the f32 weight hold, so that neighbours read neighbouring 16 bytes of it, or 1 where rows do not begin on
// them. What a second pass over a row reads is still in the cache.

constexpr int kWarps = 4, kBlock = kWarps * kWarp;  // of the forward kernel

template <int Size>
__device__ int first_column() {
  return static_cast<int>(threadIdx.x % kWarp) * Size;
}

struct Statistics {
  float mean, rstd;
};

// Of a row, in every lane. Two passes, so that a mean far from zero does not drown the variance.
template <class T, int Size>
__device__ Statistics statistics_of(const T* __restrict__ x, int width, float eps) {
  float sum = 0, squares = 0;
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> in = load_pack<Size>(x + column);
#pragma unroll
    for (int i = 0; i < Size; ++i) sum += widen(in.lane[i]);
  }
  const float mean = warp_sum(sum) / static_cast<float>(width);
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> in = load_pack<Size>(x + column);
#pragma unroll
    for (int i = 0; i < Size; ++i) squares += (widen(in.lane[i]) - mean) * (widen(in.lane[i]) - mean);
  }
  return {mean, 1.f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps)};
}

// A block owns kWarps rows. No shared memory. Must move x and y.
template <class T, int Size>
__global__ void layer_norm_kernel(T* __restrict__ y,                 // [rows, width]
                                  float* __restrict__ mean,          // [rows] or null
                                  float* __restrict__ rstd,          // [rows] or null
                                  const T* __restrict__ x,           // [rows, width]
                                  const float* __restrict__ weight,  // [width]
                                  const float* __restrict__ bias,    // [width]
                                  std::int64_t rows, int width, float eps) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const T* x_row = x + row * width;
  T* y_row = y + row * width;
  const Statistics of = statistics_of<T, Size>(x_row, width, eps);
#pragma unroll 2
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> in = load_pack<Size>(x_row + column);
    const Pack<float, Size> w = load_pack<Size>(weight + column), b = load_pack<Size>(bias + column);
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i)
      out.lane[i] = narrow<T>((widen(in.lane[i]) - of.mean) * of.rstd * w.lane[i] + b.lane[i]);
    store_pack(y_row + column, out);
  }
  if (threadIdx.x % kWarp != 0) return;
  if (mean != nullptr) mean[row] = of.mean;
  if (rstd != nullptr) rstd[row] = of.rstd;
}

// What dx of a row needs beside its own place, with g and h as in layer_norm.h.
struct Means {
  float g, gh;
};

template <class T, int Size>
__device__ Means means_of(const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ weight,
                          Statistics of, int width) {
  float sum = 0, product = 0;
#pragma unroll 4
  for (int column = first_column<Size>(); column < width; column += kWarp * Size) {
    const Pack<T, Size> d = load_pack<Size>(dy + column), in = load_pack<Size>(x + column);
    const Pack<float, Size> w = load_pack<Size>(weight + column);
#pragma unroll
    for (int i = 0; i < Size; ++i) {
      const float g = widen(d.lane[i]) * w.lane[i];
      sum += g;
      product += g * ((widen(in.lane[i]) - of.mean) * of.rstd);
    }
  }
  return {warp_sum(sum) / static_cast<float>(width), warp_sum(product) / static_cast<float>(width)};
}

// One pack of a row: dx, unless it is null, and what it adds to dweight and dbias, unless they are null.
template <class T, int Size>
__device__ void backward_pack(T* dx, Pack<float, Size>* dweight, Pack<float, Size>* dbias, const T* __restrict__ dy,
                              const T* __restrict__ x, const float* __restrict__ weight, Statistics of, Means means) {
  const Pack<T, Size> d = load_pack<Size>(dy), in = load_pack<Size>(x);
  float h[Size];
#pragma unroll
  for (int i = 0; i < Size; ++i) h[i] = (widen(in.lane[i]) - of.mean) * of.rstd;
  if (dweight != nullptr) {
    Pack<float, Size> sum = *dweight, bias_sum = *dbias;
#pragma unroll
    for (int i = 0; i < Size; ++i) {
      sum.lane[i] += widen(d.lane[i]) * h[i];
      bias_sum.lane[i] += widen(d.lane[i]);
    }
    *dweight = sum;
    *dbias = bias_sum;
  }
  if (dx == nullptr) return;
  const Pack<float, Size> w = load_pack<Size>(weight);
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i)
    out.lane[i] = narrow<T>(of.rstd * (widen(d.lane[i]) * w.lane[i] - means.g - h[i] * means.gh));
  store_pack(dx, out);
}

// A block owns rows_per_block rows, its warps take turns. Each warp adds up its shares of dweight and dbias in shared
// memory, 2 * window floats per warp, and at the end the block writes the sums of those shares; where rows are wider
// than a window, all of this happens once for each window. Must move dy, x, dx, and the partial sums.
template <class T, int Size>
__global__ void layer_norm_backward_kernel(T* __restrict__ dx,                // [rows, width] or null
                                           float* __restrict__ partials,      // [gridDim.x, 2, width] or null
                                           const T* __restrict__ dy,          // [rows, width]
                                           const T* __restrict__ x,           // [rows, width]
                                           const float* __restrict__ mean,    // [rows]
                                           const float* __restrict__ rstd,    // [rows]
                                           const float* __restrict__ weight,  // [width]
                                           std::int64_t rows, std::int64_t rows_per_block, int width, int window) {
  extern __shared__ float4 shared[];
  float* sums = reinterpret_cast<float*>(shared);
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t begin = blockIdx.x * rows_per_block, end = min(begin + rows_per_block, rows);
  for (int left = 0; left < width; left += window) {
    const int count = min(window, width - left);
    Pack<float, Size>* weights = reinterpret_cast<Pack<float, Size>*>(sums + 2 * warp * window);
    Pack<float, Size>* biases = weights + window / Size;
    if (partials == nullptr) weights = biases = nullptr;
    for (int column = first_column<Size>(); weights != nullptr && column < count; column += kWarp * Size)
      weights[column / Size] = biases[column / Size] = {};
    for (std::int64_t row = begin + warp; row < end; row += warps) {
      const T *dy_row = dy + row * width, *x_row = x + row * width;
      T* dx_row = dx == nullptr ? nullptr : dx + row * width + left;
      const Statistics of{mean[row], rstd[row]};
      const Means means = dx == nullptr ? Means{} : means_of<T, Size>(dy_row, x_row, weight, of, width);
#pragma unroll 2
      for (int column = first_column<Size>(); column < count; column += kWarp * Size)
        backward_pack<T, Size>(dx == nullptr ? nullptr : dx_row + column,
                               weights == nullptr ? nullptr : weights + column / Size, biases + column / Size,
                               dy_row + left + column, x_row + left + column, weight + left + column, of, means);
    }
    if (partials == nullptr) continue;
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * count; i += blockDim.x) {
      const int target = i < count ? 0 : 1, column = i - target * count;
      float sum = 0;
      for (int w = 0; w < warps; ++w) sum += sums[(2 * w + target) * window + column];
      partials[(2 * std::int64_t{blockIdx.x} + target) * width + left + column] = sum;
    }
    __syncthreads();
  }
}

}  // namespace

void run(const CudaContext& cuda, const LayerNorm& op) {
  if (op.y.count() == 0) return;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<float>(width, [&]<int Size>() {
      layer_norm_kernel<T, Size><<<blocks_for(rows, kWarps), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.mean.as<float>(), op.rstd.as<float>(), op.x.as<T>(), op.weight.as<float>(),
          op.bias.as<float>(), rows, static_cast<int>(width), op.eps);
    });
  });
  check_launch(LayerNorm::name);
}

void run(const CudaContext& cuda, const LayerNormBackward& op) {
  const std::int64_t rows = op.dy.rows(), width = op.dy.width();
  const bool wants_sums = op.dweight || op.dbias;
  if (width == 0 || (!op.dx && !wants_sums)) return;
  float* partials = nullptr;
  std::int64_t parts = 0;
  if (rows > 0) {
    const RowSumsPlan plan(cuda, rows, width, wants_sums ? 2 : 0);
    parts = plan.blocks;
    if (wants_sums)
      partials =
          reinterpret_cast<float*>(cuda.workspace->get(static_cast<std::size_t>(parts * 2 * width) * sizeof(float)));
    dispatch_cuda(op.dy.dtype, [&]<class T>() {
      dispatch_pack<float>(width, [&]<int Size>() {
        layer_norm_backward_kernel<T, Size>
            <<<static_cast<unsigned>(parts), plan.warps * kWarp, plan.shared_bytes, stream_of(cuda)>>>(
                op.dx.as<T>(), partials, op.dy.as<T>(), op.x.as<T>(), op.mean.as<float>(), op.rstd.as<float>(),
                op.weight.as<float>(), rows, plan.rows_per_block, static_cast<int>(width), plan.window);
      });
    });
    check_launch(LayerNormBackward::name);
  }
  if (wants_sums)
    add_partials(cuda, LayerNormBackward::name, partials, parts, width, {op.dweight.as<float>(), op.accumulate_dweight},
                 {op.dbias.as<float>(), op.accumulate_dbias});
}

}  // namespace omni
