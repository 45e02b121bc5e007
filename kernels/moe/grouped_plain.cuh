#pragma once
// Grouped products without tensor cores: f32, and bf16 rows that do not begin on 16 bytes.

#include "kernels/cuda/pack.cuh"
#include "kernels/moe/grouped_tiles.cuh"

namespace omni {

struct PlainTile {
  static constexpr int kThreads = 128, kRows = 128, kColumns = 64, kDepth = 16;
  static constexpr int kPad = 4;  // puts the depths d and d + 4 half the banks apart
};

// One operand's [kDepth, Side] slice of a tile: registers first, so that the loads run beside the arithmetic. A thread
// owns groups of 4 values that follow each other in memory; two neighbours together fill a 32-byte sector.
template <class T, bool IsAcross, int Side, int Size>
struct PlainSlice {
  static constexpr int kGroups = Side * PlainTile::kDepth / 4 / PlainTile::kThreads;
  Pack<T, 4> group[kGroups];

  __device__ static int side(int number) { return IsAcross ? number % (Side / 4) * 4 : number / 2 % Side; }
  __device__ static int depth(int number) {
    return IsAcross ? number / (Side / 4) : number % 2 * 4 + number / (2 * Side) * 8;
  }

  __device__ void load(const T* from, std::int64_t stride, int sides, int depths) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int number = g * PlainTile::kThreads + threadIdx.x, i = side(number), d = depth(number);
      const T* at = from + (IsAcross ? d * stride + i : i * stride + d);
      group[g] = {};
      if constexpr (Size == 4) {
        if (i < sides && d < depths) group[g] = load_pack<4>(at);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (i + (IsAcross ? j : 0) < sides && d + (IsAcross ? 0 : j) < depths) group[g].lane[j] = at[j];
      }
    }
  }
  __device__ void store(float (&to)[PlainTile::kDepth][Side + PlainTile::kPad]) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int number = g * PlainTile::kThreads + threadIdx.x, i = side(number), d = depth(number);
      Pack<float, 4> wide;
#pragma unroll
      for (int j = 0; j < 4; ++j) wide.lane[j] = widen(group[g].lane[j]);
      if constexpr (IsAcross) {
        *reinterpret_cast<Pack<float, 4>*>(&to[d][i]) = wide;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[d + j][i] = wide.lane[j];
      }
    }
  }
};

// Stores four neighbours of c, of which the tile has `columns`.
template <int Size, class C>
__device__ void store_plain(C* c, const Pack<float, 4>& sum, int columns, bool accumulate) {
  if constexpr (Size == 4) {
    if (columns <= 0) return;
    Pack<float, 4> out = accumulate ? load_pack<4>(c) : Pack<float, 4>{};
#pragma unroll
    for (int j = 0; j < 4; ++j) out.lane[j] = accumulate ? out.lane[j] + sum.lane[j] : sum.lane[j];
    store_pack(c, out);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < columns) c[j] = narrow<C>(accumulate ? widen(c[j]) + sum.lane[j] : sum.lane[j]);
  }
}

// grid_of<Kind, 128, 64>; a block owns a tile of c, a thread 8 x 8 values of it: rows 4 y .. and 64 + 4 y .., columns
// 4 x .. and 32 + 4 x .., for which it reads 16 values from shared memory per depth. 25 KB of shared memory: two slices
// of a and b, one being filled while the other is used. Must move a and c once and, per expert with rows, its weights.
// Loads and stores are of 16 bytes with Size 4, else of one value.
template <Grouped Kind, int Size, class T, class C>
__global__ void __launch_bounds__(PlainTile::kThreads) grouped_plain_kernel(const GroupedOperands<T, C> g) {
  constexpr int kRows = PlainTile::kRows, kColumns = PlainTile::kColumns, kDepth = PlainTile::kDepth;
  constexpr bool kA = kIsAcrossA<Kind>, kB = kIsAcrossB<Kind>;
  __shared__ alignas(16) float a[2][kDepth][kRows + PlainTile::kPad], b[2][kDepth][kColumns + PlainTile::kPad];
  const Tile<T, C> tile = tile_of_block<Kind, kRows, kColumns>(g);
  if (tile.rows == 0) return;
  const int depth = static_cast<int>(tile.depth);  // in 64 bits it would cost the registers of the third block
  const int x = threadIdx.x % 8 * 4, y = threadIdx.x / 8 * 4;
  float sum[2][4][2][4] = {};
  PlainSlice<T, kA, kRows, Size> next_a;
  PlainSlice<T, kB, kColumns, Size> next_b;
  const auto load = [&](int first) {
    next_a.load(tile.a + first * (kA ? tile.a_stride : 1), tile.a_stride, tile.rows, depth - first);
    next_b.load(tile.b + first * (kB ? tile.b_stride : 1), tile.b_stride, tile.columns, depth - first);
  };
  int now = 0;
  load(0);
  for (int first = 0; first < depth; first += kDepth, now ^= 1) {
    next_a.store(a[now]);
    next_b.store(b[now]);
    __syncthreads();
    if (first + kDepth < depth) load(first + kDepth);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const Pack<float, 4> left[2] = {load_pack<4>(&a[now][d][y]), load_pack<4>(&a[now][d][kRows / 2 + y])};
      const Pack<float, 4> right[2] = {load_pack<4>(&b[now][d][x]), load_pack<4>(&b[now][d][kColumns / 2 + x])};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          sum[i / 4][i % 4][j / 4][j % 4] += left[i / 4].lane[i % 4] * right[j / 4].lane[j % 4];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = i / 4 * (kRows / 2) + y + i % 4, column = j * (kColumns / 2) + x;
      const float* s = sum[i / 4][i % 4][j];
      if (row < tile.rows)
        store_plain<Size>(tile.c + row * tile.c_stride + column, Pack<float, 4>{s[0], s[1], s[2], s[3]},
                          tile.columns - column, g.accumulate);
    }
}

}  // namespace omni
