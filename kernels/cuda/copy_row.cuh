#pragma once
// A row moved by one warp.

#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {

// to = from, or zeros if `from` is null; both [width]. A lane moves `Size` neighbouring values of every 32 * Size, and
// loads a few packs before it stores them.
template <int Size, class T>
__device__ void copy_row(T* to, const T* from, int width) {
  constexpr int kPacks = 4, kStep = kWarp * Size;
  for (int first = static_cast<int>(threadIdx.x % kWarp) * Size; first < width; first += kPacks * kStep) {
    Pack<T, Size> packs[kPacks] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (from != nullptr && first + k * kStep < width) packs[k] = load_pack<Size>(from + first + k * kStep);
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      if (first + k * kStep < width) store_pack(to + first + k * kStep, packs[k]);
  }
}

}  // namespace omni
