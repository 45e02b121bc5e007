#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/moe/moe.h"

namespace omni {
namespace {

constexpr int kBlock = 256, kWarps = kBlock / kWarp;

// y[r] = sum_k weight[r, k] x[slot[r, k]], a weight of one where there are none. One thread owns `Size` neighbouring
// values of a row of y. No shared memory. Must move top_k + 1 values per value of y.
template <class T, int Size>
__global__ void weighted_sum_kernel(T* __restrict__ y,                      // [rows, width]
                                    const T* __restrict__ x,                // [capacity, width]
                                    const std::int64_t* __restrict__ slot,  // [rows, top_k]
                                    const float* __restrict__ weight,       // [rows, top_k] or null
                                    std::int64_t rows, std::int64_t width, std::int64_t top_k) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * Size;
  if (first >= rows * width) return;
  const std::int64_t row = first / width, column = first - row * width;
  float sum[Size] = {};
  for (std::int64_t i = row * top_k; i < (row + 1) * top_k; ++i) {
    const float w = weight ? weight[i] : 1.f;
    const Pack<T, Size> values = load_pack<Size>(x + slot[i] * width + column);
#pragma unroll
    for (int lane = 0; lane < Size; ++lane) sum[lane] += w * widen(values.lane[lane]);
  }
  Pack<T, Size> out;
#pragma unroll
  for (int lane = 0; lane < Size; ++lane) out.lane[lane] = narrow<T>(sum[lane]);
  store_pack(y + first, out);
}

constexpr int kPaddingRows = 1024;  // sorted rows in which one block looks for padding

// Zeroes the rows of dx, among the kPaddingRows that begin at `first`, which no slot names.
template <class T, int Size>
__device__ void zero_padding(T* dx, const std::int64_t* slot, std::int64_t slots, std::int64_t first,
                             std::int64_t capacity, std::int64_t width) {
  __shared__ bool is_used[kPaddingRows];
  for (int row = threadIdx.x; row < kPaddingRows; row += kBlock) is_used[row] = first + row >= capacity;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < slots; i += kBlock)
    if (slot[i] >= first && slot[i] < first + kPaddingRows) is_used[slot[i] - first] = true;
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int group = threadIdx.x / kWarp * kWarp; group < kPaddingRows; group += kBlock)
    for (unsigned unused = ~__ballot_sync(kAllLanes, is_used[group + lane]); unused != 0; unused &= unused - 1) {
      T* row = dx + (first + group + __ffs(static_cast<int>(unused)) - 1) * width;
      for (std::int64_t column = lane * Size; column < width; column += kWarp * Size)
        store_pack(row + column, Pack<T, Size>{});
    }
}

// The first `padding_blocks` blocks zero the padding rows of dx, each in its own kPaddingRows sorted rows, with 1 KB of
// shared memory. In the others one warp owns a slot: it writes that row of dx and one dweight. No row is written twice,
// so the two kinds need no order. Must move dx, the routed rows of x, and dy once (its rows come top_k times, from
// cache).
template <class T, int Size>
__global__ void combine_backward_kernel(T* __restrict__ dx,                     // [capacity, width]
                                        float* __restrict__ dweight,            // [rows, top_k]
                                        const T* __restrict__ dy,               // [rows, width]
                                        const T* __restrict__ x,                // [capacity, width]
                                        const float* __restrict__ weight,       // [rows, top_k]
                                        const std::int64_t* __restrict__ slot,  // [rows, top_k]
                                        std::int64_t capacity, std::int64_t width, std::int64_t slots,
                                        std::int64_t top_k, unsigned padding_blocks) {
  if (blockIdx.x < padding_blocks)
    return zero_padding<T, Size>(dx, slot, slots, std::int64_t{blockIdx.x} * kPaddingRows, capacity, width);
  const std::int64_t i = std::int64_t{blockIdx.x - padding_blocks} * kWarps + threadIdx.x / kWarp;
  if (i >= slots) return;
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = i / top_k, sorted_row = slot[i];
  const float w = weight[i];
  float dot = 0;
  for (std::int64_t column = lane * Size; column < width; column += kWarp * Size) {
    const Pack<T, Size> d = load_pack<Size>(dy + row * width + column);
    const Pack<T, Size> values = load_pack<Size>(x + sorted_row * width + column);
    Pack<T, Size> out;
#pragma unroll
    for (int j = 0; j < Size; ++j) {
      out.lane[j] = narrow<T>(w * widen(d.lane[j]));
      dot += widen(d.lane[j]) * widen(values.lane[j]);
    }
    store_pack(dx + sorted_row * width + column, out);
  }
  dot = warp_sum(dot);
  if (lane == 0) dweight[i] = dot;
}

void weighted_sum(const CudaContext& cuda, const char* name, const View& y, const ConstView& x, const ConstView& slot,
                  const ConstView& weight) {
  if (y.count() == 0) return;
  dispatch_cuda(y.dtype, [&]<class T>() {
    dispatch_pack<T>(y.width(), [&]<int Size>() {
      weighted_sum_kernel<T, Size><<<blocks_for(y.count(), kBlock * Size), kBlock, 0, stream_of(cuda)>>>(
          y.as<T>(), x.as<T>(), slot.as<std::int64_t>(), weight.as<float>(), y.rows(), y.width(), slot.width());
    });
  });
  check_launch(name);
}

}  // namespace

void run(const CudaContext& cuda, const MoeGatherBackward& op) {
  weighted_sum(cuda, MoeGatherBackward::name, op.dx, op.dy, op.slot, {});
}

void run(const CudaContext& cuda, const MoeCombine& op) {
  weighted_sum(cuda, MoeCombine::name, op.y, op.x, op.slot, op.weight);
}

void run(const CudaContext& cuda, const MoeCombineBackward& op) {
  const std::int64_t capacity = op.dx.rows(), slots = op.slot.count();
  const unsigned padding_blocks = blocks_for(capacity, kPaddingRows),
                 blocks = padding_blocks + blocks_for(slots, kWarps);
  if (blocks == 0) return;
  dispatch_cuda(op.dx.dtype, [&]<class T>() {
    dispatch_pack<T>(op.dx.width(), [&]<int Size>() {
      combine_backward_kernel<T, Size><<<blocks, kBlock, 0, stream_of(cuda)>>>(
          op.dx.as<T>(), op.dweight.as<float>(), op.dy.as<T>(), op.x.as<T>(), op.weight.as<float>(),
          op.slot.as<std::int64_t>(), capacity, op.dx.width(), slots, op.weight.width(), padding_blocks);
    });
  });
  check_launch(MoeCombineBackward::name);
}

}  // namespace omni
