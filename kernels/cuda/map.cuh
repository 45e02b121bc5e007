#pragma once
// A function applied to each element of arrays of one length.

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"

namespace omni {

inline constexpr int kMapBlock = 256;

// 16 bytes of the widest of these types.
template <class... T>
inline constexpr int kMapSize = 16 / static_cast<int>(std::max({sizeof(T)...}));

// y[i] = function(x[i]...), from floats to float; y may be any of the x. One thread owns `kMapSize` neighbouring values
// of each array, the one that meets the end those that are left, one by one. No shared memory. Must move every operand
// once.
template <class Function, class Y, class... X>
__global__ void map_kernel(Function function, std::int64_t count, Y* y, const X*... x) {  // all [count]
  constexpr int kSize = kMapSize<Y, X...>;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kMapBlock + threadIdx.x) * kSize;
  if (first + kSize <= count) {
    const auto apply = [&](const Pack<X, kSize>&... in) {
      Pack<Y, kSize> out;
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.lane[i] = narrow<Y>(function(widen(in.lane[i])...));
      store_pack(y + first, out);
    };
    apply(load_pack<kSize>(x + first)...);
  } else {
    for (std::int64_t i = first; i < count; ++i) y[i] = narrow<Y>(function(widen(x[i])...));
  }
}

// Function is a type with `__device__ float operator()(float...) const`.
template <class Function, class Y, class... X>
void map(const CudaContext& cuda, const char* instruction, const Function& function, std::int64_t count, Y* y,
         const X*... x) {
  if (count == 0) return;
  map_kernel<<<blocks_for(count, kMapBlock * kMapSize<Y, X...>), kMapBlock, 0, stream_of(cuda)>>>(function, count, y,
                                                                                                  x...);
  check_launch(instruction);
}

}  // namespace omni
