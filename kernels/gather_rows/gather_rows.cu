#include "kernels/cuda/copy_row.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/gather_rows/gather_rows.h"

namespace omni {
namespace {

constexpr int kWarps = 4, kBlock = kWarps * kWarp;

// One warp owns a row of y, a lane `Size` neighbouring values (16 bytes, or 1 value where rows do not begin on 16
// bytes) of every 32 * Size. No shared memory. Must move y and the rows of x that it is made of.
template <class T, int Size>
__global__ void gather_rows_kernel(T* __restrict__ y,                        // [count, width]
                                   const T* __restrict__ x,                  // [rows, width]
                                   const std::int64_t* __restrict__ source,  // [count]
                                   std::int64_t count, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= count) return;
  const std::int64_t from = source[row];
  copy_row<Size>(y + row * width, from < 0 ? nullptr : x + from * width, width);
}

}  // namespace

void run(const CudaContext& cuda, const GatherRows& op) {
  if (op.y.count() == 0) return;
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<T>(op.x.width(), [&]<int Size>() {
      gather_rows_kernel<T, Size><<<blocks_for(op.source.count(), kWarps), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.x.as<T>(), op.source.as<std::int64_t>(), op.source.count(), static_cast<int>(op.x.width()));
    });
  });
  check_launch(GatherRows::name);
}

}  // namespace omni
