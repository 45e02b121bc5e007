#pragma once
// The plain passes: f32 arithmetic on tiles in shared memory, for any head_dim.
// A block owns 32 rows (queries, or keys for dk and dv) and goes through the rows on the other side, the columns of the
// score matrix, 32 at a time. A warp owns 4 of the rows. When it makes scores, a lane has one column; when it adds
// weighted columns up, a lane has every 32nd value of head_dim.

#include "kernels/attention/passes.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni::plain {

inline constexpr int kTile = 32, kRows = 4, kBlock = kTile / kRows * kWarp;
inline constexpr int kColumns = Attention::kMaxHeadDim / kWarp;

// Values of a row in shared memory: head_dim padded with zeros to whole warps, and 4 more, so that lanes that read
// neighbouring rows meet different banks.
constexpr int stride_of(int head_dim) { return static_cast<int>(ceil_div(head_dim, kWarp)) * kWarp + 4; }
constexpr int tile_size(int head_dim) { return kTile * stride_of(head_dim); }
inline constexpr int kWeights = kTile * kTile;  // for each warp [kRows, kTile]

// All threads: rows `from_stride` values apart become a tile; rows at and after `valid` become zero.
template <class T>
__device__ void load_tile(float* tile, const T* from, int from_stride, int valid, int head_dim) {
  constexpr int kSize = kPackSize<T>;
  const int stride = stride_of(head_dim), width = stride - 4;
  if (head_dim % kSize == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * width / kSize; i += kBlock) {
      const int row = i * kSize / width, column = i * kSize % width;
      Pack<T, kSize> x{};
      if (row < valid && column < head_dim) x = load_pack<kSize>(from + row * from_stride + column);
#pragma unroll
      for (int l = 0; l < kSize; l += 4)
        *reinterpret_cast<float4*>(tile + row * stride + column + l) =
            float4{widen(x.lane[l]), widen(x.lane[l + 1]), widen(x.lane[l + 2]), widen(x.lane[l + 3])};
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * width; i += kBlock) {
      const int row = i / width, column = i % width;
      const bool inside = row < valid && column < head_dim;
      tile[row * stride + column] = inside ? widen(from[row * from_stride + column]) : 0.f;
    }
  }
}

// dots[r] = own[r] . tile[lane], where own are the warp's rows in their tile.
__device__ inline void dot_rows(float (&dots)[kRows], const float* own, const float* tile, int head_dim) {
  const int stride = stride_of(head_dim);
  const float* column = tile + threadIdx.x % kWarp * stride;
#pragma unroll
  for (int r = 0; r < kRows; ++r) dots[r] = 0;
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    const Pack<float, 4> x = load_pack<4>(column + d);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Pack<float, 4> y = load_pack<4>(own + r * stride + d);
#pragma unroll
      for (int l = 0; l < 4; ++l) dots[r] = fmaf(x.lane[l], y.lane[l], dots[r]);
    }
  }
}

// sums[r][c] += sum over columns j of weights[r][j] * tile[j][lane + 32 c]. weights are the warp's own.
__device__ inline void add_weighted(float (&sums)[kRows][kColumns], const float* weights, const float* tile,
                                    int head_dim) {
  const int stride = stride_of(head_dim), lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
  for (int j = 0; j < kTile; j += 4) {
    Pack<float, 4> weight[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) weight[r] = load_pack<4>(weights + r * kTile + j);
#pragma unroll
    for (int l = 0; l < 4; ++l)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (c * kWarp >= head_dim) break;
        const float x = tile[(j + l) * stride + lane + c * kWarp];
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][c] = fmaf(weight[r].lane[l], x, sums[r][c]);
      }
  }
}

// Writes a row of add_weighted.
template <class T>
__device__ void store_row(T* to, const float (&sums)[kColumns], float factor, int head_dim) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = static_cast<int>(threadIdx.x) % kWarp + c * kWarp;
    if (column < head_dim) to[column] = narrow<T>(sums[c] * factor);
  }
}

}  // namespace omni::plain
