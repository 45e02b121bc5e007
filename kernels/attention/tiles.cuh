#pragma once
// What the tensor-core passes are made of: tiles of bf16 rows in shared memory, and products of them. A warp works on
// 16 rows at a time; with group = lane / 4 and pair = 2 (lane % 4), a lane holds of a product, for each 8 columns n,
//   x[n][0], x[n][1]   row group,     columns 8 n + pair and the next
//   x[n][2], x[n][3]   row group + 8, the same columns

#include <cuda_bf16.h>

#include "kernels/attention/passes.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {

// A tile of rows of Width values. ldmatrix reads eight rows at once, 16 bytes (a chunk) of each, so the chunks of a row
// are exchanged in a pattern that makes those eight lie in different banks.
template <int Width>
struct Tile {
  static constexpr int kChunks = Width / 8, kRowBytes = Width * 2;
  static constexpr int kPattern = kChunks % 8 == 0 ? 8 : 4;  // chunks that change places
  static_assert(kChunks % 4 == 0);

  unsigned base;  // address in shared memory

  // Byte offset of a chunk.
  __device__ static int offset(int row, int chunk) {
    return row * kRowBytes + (chunk ^ row / (8 / kPattern) % kPattern) * 16;
  }

  // 16 rows and 16 columns, as the left operand of a product, or as 16 terms (rows) of the right one if transposed.
  __device__ unsigned left(int row, int column) const { return address(lane() % 16, lane() / 16, row, column); }
  // 16 rows and 16 columns, as 16 columns (rows) of the right operand of a product.
  __device__ unsigned right(int row, int column) const {
    return address(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2, row, column);
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  // `row` and `column` are multiples of 16, so that the exchange depends on the lane alone, and stays within kPattern
  // chunks: written like this, the rest of the address is a constant.
  __device__ unsigned address(int lane_row, int lane_chunk, int row, int column) const {
    constexpr int kPatternBytes = kPattern * 16;
    const int exchange = (lane_chunk ^ lane_row / (8 / kPattern) % kPattern) * 16;
    return base + static_cast<unsigned>(lane_row * kRowBytes + (column * 2 % kPatternBytes ^ exchange)) +
           static_cast<unsigned>(row * kRowBytes + column * 2 / kPatternBytes * kPatternBytes);
  }
};

// Starts to copy Rows rows, `stride` values apart, to a tile. Rows at and after `valid` and columns at and after
// head_dim become zero. The block takes a multiple of eight rows at a time, in which each thread has one chunk; the
// pattern of exchanges is then the same each time.
template <int Rows, int Threads, int Width>
__device__ void load_tile(Tile<Width> tile, const bf16* from, int stride, int valid, int head_dim) {
  constexpr int kAtOnce = Threads / Tile<Width>::kChunks / 8 * 8;
  const int row = static_cast<int>(threadIdx.x) / Tile<Width>::kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % Tile<Width>::kChunks;
  if (row >= kAtOnce) return;
  if (chunk * 8 >= head_dim) valid = 0;
  const unsigned to = tile.base + tile.offset(row, chunk);
  const bf16* source = from + row * stride + chunk * 8;
#pragma unroll
  for (int i = 0; i < Rows; i += kAtOnce, source += kAtOnce * stride) {
    const bool inside = row + i < valid;
    copy_async(to + i * Tile<Width>::kRowBytes, inside ? source : from, inside);
  }
}

// 16 rows of a tile as left operands.
template <int Width>
__device__ void load_left(unsigned (&a)[Width / 16][4], Tile<Width> tile, int row) {
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) ldmatrix_x4(a[k], tile.left(row, 16 * k));
}

// x += a b^T, where b are Columns rows of a tile, from `row` on.
template <int Width, int Columns>
__device__ void multiply_transposed(float (&x)[Columns / 8][4], const unsigned (&a)[Width / 16][4], Tile<Width> b,
                                    int row) {
#pragma unroll
  for (int k = 0; k < Width / 16; ++k)
#pragma unroll
    for (int n = 0; n < Columns / 16; ++n) {
      unsigned r[4];
      ldmatrix_x4(r, b.right(row + 16 * n, 16 * k));
      mma_m16n8k16(x[2 * n], a[k], {r[0], r[1]});
      mma_m16n8k16(x[2 * n + 1], a[k], {r[2], r[3]});
    }
}

// x += a b, where b are Terms rows of a tile, from `row` on.
template <int Terms, int Width>
__device__ void multiply(float (&x)[Width / 8][4], const unsigned (&a)[Terms / 16][4], Tile<Width> b, int row) {
#pragma unroll
  for (int k = 0; k < Terms / 16; ++k)
#pragma unroll
    for (int n = 0; n < Width / 16; ++n) {
      unsigned r[4];
      ldmatrix_x4_transposed(r, b.left(row + 16 * k, 16 * n));
      mma_m16n8k16(x[2 * n], a[k], {r[0], r[1]});
      mma_m16n8k16(x[2 * n + 1], a[k], {r[2], r[3]});
    }
}

__device__ inline unsigned two_bf16(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return static_cast<unsigned>(__bfloat16_as_ushort(both.x)) | static_cast<unsigned>(__bfloat16_as_ushort(both.y))
                                                                   << 16;
}

// A product becomes the left operand of the next: a lane holds just the values that it needs.
template <int Columns>
__device__ void to_left(unsigned (&a)[Columns / 16][4], const float (&x)[Columns / 8][4]) {
#pragma unroll
  for (int k = 0; k < Columns / 16; ++k)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      a[k][2 * half] = two_bf16(x[2 * k + half][0], x[2 * k + half][1]);
      a[k][2 * half + 1] = two_bf16(x[2 * k + half][2], x[2 * k + half][3]);
    }
}

// Makes scores minus infinity where a row does not see the column; `first` is the column of x[0][0] in lane 0.
template <int Tiles>
__device__ void hide(float (&x)[Tiles][4], const Span (&seen)[2], int first) {
  const int pair = first + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < Tiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!seen[i / 2].has(pair + 8 * n + i % 2)) x[n][i] = -INFINITY;
}

// Writes a warp's 16 rows, times a factor of rows group and group + 8, as bf16. They go through `shared`, 16 rows of a
// tile which only this warp uses, so that whole chunks leave.
template <int Width>
__device__ void store_rows(bf16* to, int stride, int valid, int head_dim, char* shared, const float (&x)[Width / 8][4],
                           const float (&factor)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, group = lane / 4;
#pragma unroll
  for (int n = 0; n < Width / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<unsigned*>(shared + Tile<Width>::offset(group + 8 * half, n) + lane % 4 * 4) =
          two_bf16(x[n][2 * half] * factor[half], x[n][2 * half + 1] * factor[half]);
  __syncwarp();
  constexpr int kChunks = Tile<Width>::kChunks;
#pragma unroll
  for (int i = 0; i < 16 * kChunks; i += kWarp) {
    const int row = (i + lane) / kChunks, chunk = (i + lane) % kChunks;
    if (row < valid && chunk * 8 < head_dim)
      *reinterpret_cast<uint4*>(to + row * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(shared + Tile<Width>::offset(row, chunk));
  }
}

// Calls body.operator()<Width>() with the width of the tiles for a head_dim.
template <class Body>
void dispatch_width(int head_dim, Body&& body) {
  if (head_dim <= 32) return body.template operator()<32>();
  if (head_dim <= 64) return body.template operator()<64>();
  if (head_dim <= 96) return body.template operator()<96>();
  return body.template operator()<128>();
}

}  // namespace omni
