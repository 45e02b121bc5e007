#pragma once
// Sums and maxima over the threads of a warp and of a block, in a fixed order: the same bits in every run.

#include <cuda_runtime.h>

namespace omni {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// The sum over the `Width` neighbouring lanes that begin at a multiple of Width (a power of two), in every lane.
template <int Width = kWarp, class F>
__device__ F warp_sum(F x) {
#pragma unroll
  for (int distance = Width / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}
template <int Width = kWarp>
__device__ float warp_max(float x) {
#pragma unroll
  for (int distance = Width / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

// The sum over a block of Threads threads, in every thread; `shared` holds Threads / 32 values. All threads must call
// it. The first barrier lets a block use the same memory twice in a row.
template <int Threads, class F>
__device__ F block_sum(F x, F* shared) {
  constexpr int kWarps = Threads / kWarp;
  x = warp_sum(x);
  if constexpr (kWarps == 1) return x;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  F sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}
template <int Threads>
__device__ float block_max(float x, float* shared) {
  constexpr int kWarps = Threads / kWarp;
  x = warp_max(x);
  if constexpr (kWarps == 1) return x;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  float max = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) max = fmaxf(max, shared[warp]);
  return max;
}

}  // namespace omni
