#include "kernels/cuda/copy_row.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/select_rows/select_rows.h"

namespace omni {
namespace {

constexpr int kWarps = 4, kBlock = kWarps * kWarp;

// One warp owns a row of y, a lane `Size` neighbouring values (16 bytes, or 1 value where rows do not begin on 16
// bytes) of every 32 * Size. No shared memory. Must move y and the rows that it is made of, or if y is x only those
// that change.
template <class T, int Size>
__global__ void select_rows_kernel(T* y, const T* x,                         // [rows, width]
                                   const T* __restrict__ from,               // [count, width]
                                   const std::int64_t* __restrict__ source,  // [rows]
                                   std::int64_t rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const std::int64_t taken = source[row];
  if (taken >= 0)
    copy_row<Size>(y + row * width, from + taken * width, width);
  else if (y != x)
    copy_row<Size>(y + row * width, x + row * width, width);
}

constexpr int kPacks = 3;  // of a lane, side by side 32 packs apart: one warp for a row of 768 bf16
template <int Size>
constexpr int kStrip = kWarp* Size* kPacks;  // columns of a warp

// sum += the rows of dy, among the 32 that begin at `first`, that `hits` names, in order; they become zero in dx if
// that is there. Rows are loaded a few at a time, so that one which many took does not wait for memory at each. Columns
// begin at `column`.
template <class T, int Size>
__device__ void add_rows(Pack<float, Size> (&sum)[kPacks], unsigned hits, std::int64_t first, T* dx, const T* dy,
                         int column, int width) {
  constexpr int kRows = 2;
  while (hits != 0) {
    Pack<T, Size> in[kRows][kPacks] = {};
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (hits == 0) break;
      const std::int64_t row = first + __ffs(static_cast<int>(hits)) - 1;
      hits &= hits - 1;
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int at = column + p * kWarp * Size;
        if (at < width) in[k][p] = load_pack<Size>(dy + row * width + at);
      }
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        const int at = column + p * kWarp * Size;
        if (dx != nullptr && at < width) store_pack(dx + row * width + at, Pack<T, Size>{});
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k)
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
#pragma unroll
        for (int i = 0; i < Size; ++i) sum[p].lane[i] += widen(in[k][p].lane[i]);
  }
}

// One warp owns kStrip columns (blockIdx.y) of a row k of dfrom, a lane kPacks packs of `Size` of them. It looks
// through all of source for k, adds the rows of dy that it finds, in order, and writes zeros in their place in dx. dx
// may be dy, since no other warp touches these values. No shared memory. Must move dfrom, and dy and dx in the rows
// that were taken; source comes once per warp, from the cache.
template <class T, int Size>
__global__ void __launch_bounds__(kBlock) sum_takers_kernel(T* dx,                  // [rows, width] or null
                                                            T* __restrict__ dfrom,  // [count, width]
                                                            const T* dy,            // [rows, width]
                                                            const std::int64_t* __restrict__ source,  // [rows]
                                                            std::int64_t rows, std::int64_t count, int width) {
  constexpr int kTiles = 4;  // of 32 sources, loaded together
  const std::int64_t k = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (k >= count) return;
  const int lane = threadIdx.x % kWarp, column = blockIdx.y * kStrip<Size> + lane * Size;
  Pack<float, Size> sum[kPacks] = {};
  for (std::int64_t first = 0; first < rows; first += kTiles * kWarp) {
    std::int64_t taken[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const std::int64_t row = first + t * kWarp + lane;
      taken[t] = row < rows ? source[row] : -1;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      add_rows<T, Size>(sum, __ballot_sync(kAllLanes, taken[t] == k), first + t * kWarp, dx, dy, column, width);
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int at = column + p * kWarp * Size;
    Pack<T, Size> out;
#pragma unroll
    for (int i = 0; i < Size; ++i) out.lane[i] = narrow<T>(sum[p].lane[i]);
    if (at < width) store_pack(dfrom + k * width + at, out);
  }
}

// dx = dy where no row was taken, else 0. One warp owns a row, as in the forward kernel; where sum_takers_kernel has
// written the zeros (zeros_written), or dx is dy, it has less to do. Must move dx, and dy in the rows not taken.
template <class T, int Size>
__global__ void keep_rows_kernel(T* dx, const T* dy,                       // [rows, width]
                                 const std::int64_t* __restrict__ source,  // [rows]
                                 std::int64_t rows, int width, bool zeros_written) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const bool is_taken = source[row] >= 0;
  if (is_taken ? zeros_written : dx == dy) return;
  copy_row<Size>(dx + row * width, is_taken ? nullptr : dy + row * width, width);
}

}  // namespace

void run(const CudaContext& cuda, const SelectRows& op) {
  if (op.y.count() == 0) return;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    dispatch_pack<T>(width, [&]<int Size>() {
      select_rows_kernel<T, Size><<<blocks_for(rows, kWarps), kBlock, 0, stream_of(cuda)>>>(
          op.y.as<T>(), op.x.as<T>(), op.from.as<T>(), op.source.as<std::int64_t>(), rows, static_cast<int>(width));
    });
  });
  check_launch(SelectRows::name);
}

void run(const CudaContext& cuda, const SelectRowsBackward& op) {
  const std::int64_t rows = op.dy.rows(), count = op.dfrom.rows(), width = op.dy.width();
  const std::int64_t* source = op.source.as<std::int64_t>();
  const bool sums = op.dfrom && op.dfrom.count() > 0;
  const bool keeps = op.dx && op.dx.count() > 0 && !(sums && op.dx.data == op.dy.data);
  dispatch_cuda(op.dy.dtype, [&]<class T>() {
    dispatch_pack<T>(width, [&]<int Size>() {
      if (sums) {
        const dim3 grid(blocks_for(count, kWarps), blocks_for(width, kStrip<Size>));
        sum_takers_kernel<T, Size><<<grid, kBlock, 0, stream_of(cuda)>>>(op.dx.as<T>(), op.dfrom.as<T>(), op.dy.as<T>(),
                                                                         source, rows, count, static_cast<int>(width));
        check_launch(SelectRowsBackward::name);
      }
      if (keeps) {
        keep_rows_kernel<T, Size><<<blocks_for(rows, kWarps), kBlock, 0, stream_of(cuda)>>>(
            op.dx.as<T>(), op.dy.as<T>(), source, rows, static_cast<int>(width), sums);
        check_launch(SelectRowsBackward::name);
      }
    });
  });
}

}  // namespace omni
