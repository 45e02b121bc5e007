#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/groups/groups.h"

namespace omni {
namespace {

constexpr int kBlock = 256;

// In all three kernels `size` is the number of values of a group, and a thread owns `Size` neighbouring ones: 16 bytes,
// or 1 where groups do not begin on 16 bytes. None uses shared memory.

// A thread adds its values of all groups. Must move x and y once.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock) sum_groups_kernel(T* __restrict__ y,        // [size]
                                                            const T* __restrict__ x,  // [groups, size]
                                                            std::int64_t size, int groups, float factor) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  if (first >= size) return;
  float sum[Size] = {};
#pragma unroll 4
  for (int g = 0; g < groups; ++g) {
    const Pack<T, Size> in = load_pack<Size>(x + g * size + first);
#pragma unroll
    for (int i = 0; i < Size; ++i) sum[i] += widen(in.lane[i]);
  }
  Pack<T, Size> out;
#pragma unroll
  for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(factor * sum[i]);
  store_pack(y + first, out);
}

// A thread adds its values of x to each group. Must move x once and y once, or twice if Accumulate.
template <class T, int Size, bool Accumulate>
__global__ void __launch_bounds__(kBlock) add_groups_kernel(T* __restrict__ y,        // [groups, size]
                                                            const T* __restrict__ x,  // [size]
                                                            std::int64_t size, int groups, float factor) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  if (first >= size) return;
  const Pack<T, Size> in = load_pack<Size>(x + first);
#pragma unroll 4
  for (int g = 0; g < groups; ++g) {
    T* to = y + g * size + first;
    Pack<T, Size> out = {};
    if constexpr (Accumulate) out = load_pack<Size>(to);
#pragma unroll
    for (int i = 0; i < Size; ++i) {
      const float added = factor * widen(in.lane[i]);
      out.lane[i] = narrow<T>(Accumulate ? widen(out.lane[i]) + added : added);
    }
    store_pack(to, out);
  }
}

// blockIdx.y is the group. Must move the groups whose factor is not 1 twice.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock) scale_groups_kernel(T* x,                              // [groups, size]
                                                              const float* __restrict__ factor,  // [groups]
                                                              std::int64_t size) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  const float by = factor[blockIdx.y];
  if (by == 1.f || first >= size) return;
  T* to = x + blockIdx.y * size + first;
  Pack<T, Size> pack = load_pack<Size>(to);
#pragma unroll
  for (int i = 0; i < Size; ++i) pack.lane[i] = narrow<T>(by * widen(pack.lane[i]));
  store_pack(to, pack);
}

}  // namespace

void run(const CudaContext& cuda, const SumGroups& op) {
  const std::int64_t size = op.y.count();
  if (size == 0) return;
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<T>(size, [&]<int Size>() {
      sum_groups_kernel<T, Size><<<blocks_for(size, kBlock * Size), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.x.as<T>(), size, static_cast<int>(op.groups), static_cast<float>(op.factor));
    });
  });
  check_launch(SumGroups::name);
}

void run(const CudaContext& cuda, const AddGroups& op) {
  const std::int64_t size = op.x.count();
  if (size == 0) return;
  dispatch_cuda(op.x.dtype, [&]<class T>() {
    dispatch_pack<T>(size, [&]<int Size>() {
      const auto kernel = op.accumulate ? add_groups_kernel<T, Size, true> : add_groups_kernel<T, Size, false>;
      kernel<<<blocks_for(size, kBlock * Size), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.x.as<T>(), size, static_cast<int>(op.groups), static_cast<float>(op.factor));
    });
  });
  check_launch(AddGroups::name);
}

void run(const CudaContext& cuda, const ScaleGroups& op) {
  const std::int64_t groups = op.factor.count(), size = op.x.count() / groups;
  if (size == 0) return;
  dispatch_cuda(op.x.dtype, [&]<class T>() {
    dispatch_pack<T>(size, [&]<int Size>() {
      const dim3 grid(blocks_for(size, kBlock * Size), static_cast<unsigned>(groups));
      scale_groups_kernel<T, Size><<<grid, kBlock, 0, stream_of(cuda)>>>(op.x.as<T>(), op.factor.as<float>(), size);
    });
  });
  check_launch(ScaleGroups::name);
}

}  // namespace omni
