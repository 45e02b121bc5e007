#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/scaled_sum/scaled_sum.h"

namespace omni {
namespace {

constexpr int kBlock = 256;

// The pack at `first` of an array of `count`; zeros beyond its end.
template <int Size, class T>
__device__ Pack<T, Size> load_tail(const T* from, std::int64_t first, std::int64_t count) {
  if (first + Size <= count) return load_pack<Size>(from + first);
  Pack<T, Size> out = {};
#pragma unroll
  for (int i = 0; i < Size; ++i)
    if (first + i < count) out.lane[i] = from[first + i];
  return out;
}
template <int Size, class T>
__device__ void store_tail(T* to, const Pack<T, Size>& pack, std::int64_t first, std::int64_t count) {
  if (first + Size <= count) return store_pack(to + first, pack);
#pragma unroll
  for (int i = 0; i < Size; ++i)
    if (first + i < count) to[first + i] = pack.lane[i];
}

// One thread owns 16 bytes of each array, or what is left of them at the end. No shared memory. Must move y, a and b.
template <class T>
__global__ void __launch_bounds__(kBlock)
    scaled_sum_kernel(T* y, const T* a, const T* b,                                          // [count]
                      const float* __restrict__ a_scale, const float* __restrict__ b_scale,  // [1]
                      std::int64_t count) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * kSize;
  if (first >= count) return;
  const float by_a = *a_scale, by_b = *b_scale;
  const Pack<T, kSize> in_a = load_tail<kSize>(a, first, count), in_b = load_tail<kSize>(b, first, count);
  Pack<T, kSize> out;
#pragma unroll
  for (int i = 0; i < kSize; ++i) out.lane[i] = narrow<T>(by_a * widen(in_a.lane[i]) + by_b * widen(in_b.lane[i]));
  store_tail<kSize>(y, out, first, count);
}

constexpr int kPacks = 4;  // of a thread, in each array
template <class T>
constexpr int kChunk = kBlock* kPacks* kPackSize<T>;  // values of a block

// dx = factor * dy, where it is wanted.
template <class T, int Size>
__device__ void store_scaled(T* dx, const Pack<T, Size>& dy, float factor, std::int64_t first, std::int64_t count) {
  if (dx == nullptr) return;
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(factor * widen(dy.lane[i]));
  store_tail<Size>(dx, out, first, count);
}

// sum of dy * x
template <class T, int Size>
__device__ float dot(const Pack<T, Size>& dy, const Pack<T, Size>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Size; ++i) sum += widen(dy.lane[i]) * widen(x.lane[i]);
  return sum;
}

// A block owns kChunk values, a thread every 256th pack of 16 bytes, and writes one partial sum for each scale that has
// a gradient. da and db may be dy, since a thread reads before it writes. 32 bytes of shared memory. Must move dy, da,
// db, and a and b if their scales have gradients.
template <class T>
__global__ void __launch_bounds__(kBlock)
    scaled_sum_backward_kernel(T* da, T* db,                                                    // [count] or null
                               float* __restrict__ a_partials, float* __restrict__ b_partials,  // [gridDim.x] or null
                               const T* dy, const T* __restrict__ a, const T* __restrict__ b,   // [count]
                               const float* __restrict__ a_scale, const float* __restrict__ b_scale,  // [1]
                               std::int64_t count) {
  constexpr int kSize = kPackSize<T>;
  __shared__ float shared[kBlock / kWarp];
  const float by_a = *a_scale, by_b = *b_scale;
  float a_sum = 0, b_sum = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const std::int64_t first =
        std::int64_t{blockIdx.x} * kChunk<T> + (k * kBlock + static_cast<int>(threadIdx.x)) * kSize;
    if (first >= count) break;
    const Pack<T, kSize> d = load_tail<kSize>(dy, first, count);
    if (a_partials != nullptr) a_sum += dot(d, load_tail<kSize>(a, first, count));
    if (b_partials != nullptr) b_sum += dot(d, load_tail<kSize>(b, first, count));
    store_scaled(da, d, by_a, first, count);
    store_scaled(db, d, by_b, first, count);
  }
  if (a_partials != nullptr) {
    a_sum = block_sum<kBlock>(a_sum, shared);
    if (threadIdx.x == 0) a_partials[blockIdx.x] = a_sum;
  }
  if (b_partials != nullptr) {
    b_sum = block_sum<kBlock>(b_sum, shared);
    if (threadIdx.x == 0) b_partials[blockIdx.x] = b_sum;
  }
}

struct ScaleGradient {
  float* sum;             // [1]; null: not wanted
  const float* partials;  // [parts]
  bool accumulate;
};

// One block adds up the partial sums in double, in an order that depends on their number alone. 64 bytes of shared
// memory. Must move them.
__global__ void __launch_bounds__(kBlock) finish_scales_kernel(ScaleGradient a, ScaleGradient b, std::int64_t parts) {
  __shared__ double shared[kBlock / kWarp];
  for (const ScaleGradient& scale : {a, b}) {
    if (scale.sum == nullptr) continue;
    double sum = 0;
    for (std::int64_t part = threadIdx.x; part < parts; part += kBlock)
      sum += static_cast<double>(scale.partials[part]);
    sum = block_sum<kBlock>(sum, shared);
    if (threadIdx.x == 0)
      *scale.sum = static_cast<float>(scale.accumulate ? static_cast<double>(*scale.sum) + sum : sum);
  }
}

}  // namespace

void run(const CudaContext& cuda, const ScaledSum& op) {
  const std::int64_t count = op.y.count();
  if (count == 0) return;
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    scaled_sum_kernel<<<blocks_for(count, kBlock * kPackSize<T>), kBlock, 0, stream_of(cuda)>>>(
        op.y.as<T>(), op.a.as<T>(), op.b.as<T>(), op.a_scale.as<float>(), op.b_scale.as<float>(), count);
  });
  check_launch(ScaledSum::name);
}

void run(const CudaContext& cuda, const ScaledSumBackward& op) {
  if (!op.da && !op.db && !op.da_scale && !op.db_scale) return;
  const std::int64_t count = op.dy.count();
  dispatch_cuda(op.dy.dtype, [&]<class T>() {
    const std::int64_t parts = ceil_div(count, kChunk<T>);
    auto* partials = reinterpret_cast<float*>(cuda.workspace->get(static_cast<std::size_t>(2 * parts) * sizeof(float)));
    float *a_partials = op.da_scale ? partials : nullptr, *b_partials = op.db_scale ? partials + parts : nullptr;
    if (parts > 0) {
      scaled_sum_backward_kernel<<<static_cast<unsigned>(parts), kBlock, 0, stream_of(cuda)>>>(
          op.da.as<T>(), op.db.as<T>(), a_partials, b_partials, op.dy.as<T>(), op.a.as<T>(), op.b.as<T>(),
          op.a_scale.as<float>(), op.b_scale.as<float>(), count);
      check_launch(ScaledSumBackward::name);
    }
    if (!op.da_scale && !op.db_scale) return;
    finish_scales_kernel<<<1, kBlock, 0, stream_of(cuda)>>>(
        {op.da_scale.as<float>(), a_partials, op.accumulate_a_scale},
        {op.db_scale.as<float>(), b_partials, op.accumulate_b_scale}, parts);
    check_launch(ScaledSumBackward::name);
  });
}

}  // namespace omni
