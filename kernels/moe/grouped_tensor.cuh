#pragma once
// Grouped products on tensor cores: bf16 operands whose rows begin on 16 bytes, sums in f32.

#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe/grouped_tiles.cuh"

namespace omni {

// A block multiplies 128 rows by 128 or 64 columns, each warp 64 x 32 of them, and moves on by 32 in depth.
struct TensorTile {
  static constexpr int kRows = 128, kDepth = 32, kStages = 3, kWarpRows = 64, kWarpColumns = 32;
  static constexpr int threads(int columns) { return kRows / kWarpRows * (columns / kWarpColumns) * kWarp; }
};

// Where, in bytes, the 16-byte piece of an operand's [Side, kDepth] (across: [kDepth, Side]) slice lies that holds
// value (i, d). Pieces of a row are permuted so that any 8 that are read together, from 8 rows, lie in different banks.
template <bool IsAcross, int Side>
__device__ unsigned piece_at(int i, int d) {
  return IsAcross ? d * Side * 2 + ((i / 8) ^ (d % 8)) * 16 : i * TensorTile::kDepth * 2 + (d / 8 ^ (i / 2 % 4)) * 16;
}

// Starts the copy of a slice to shared memory, with zeros past the ends of the operand.
template <bool IsAcross, int Side, int Threads>
__device__ void fetch_slice(unsigned to, const bf16* from, std::int64_t stride, int sides, std::int64_t depths) {
  constexpr int kDepthPieces = TensorTile::kDepth / 8, kSidePieces = Side / 8;
#pragma unroll
  for (int n = 0; n < Side * kDepthPieces / Threads; ++n) {
    const int piece = n * Threads + threadIdx.x;
    const int i = IsAcross ? piece % kSidePieces * 8 : piece / kDepthPieces;
    const int d = IsAcross ? piece / kSidePieces : piece % kDepthPieces * 8;
    const bool valid = i < sides && d < depths;
    copy_async(to + piece_at<IsAcross, Side>(i, d), valid ? from + (IsAcross ? d * stride + i : i * stride + d) : from,
               valid);
  }
}

template <bool IsAcross>
__device__ void load_matrices(unsigned (&r)[4], unsigned address) {
  if constexpr (IsAcross)
    ldmatrix_x4_transposed(r, address);
  else
    ldmatrix_x4(r, address);
}

using WarpSums = float[4][4][4];  // [16 rows each][8 columns each][as mma_m16n8k16 has them]

// sum += the warp's part of a slice of a and b, which begins at row `row` and column `column` of the tile.
template <bool IsAcrossA, bool IsAcrossB, int Columns>
__device__ void multiply_slice(WarpSums& sum, unsigned a, unsigned b, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  const int in_matrix = lane % 8, second = lane / 8 % 2 * 8, fourth = lane / 16 * 8;  // 8 in matrices 1 and 3; 2 and 3
#pragma unroll
  for (int depth = 0; depth < TensorTile::kDepth; depth += 16) {
    unsigned left[4][4], right[2][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      load_matrices<IsAcrossA>(
          left[i], a + piece_at<IsAcrossA, TensorTile::kRows>(row + 16 * i + second + (IsAcrossA ? 0 : in_matrix),
                                                              depth + fourth + (IsAcrossA ? in_matrix : 0)));
#pragma unroll
    for (int j = 0; j < 2; ++j)
      load_matrices<IsAcrossB>(right[j],
                               b + piece_at<IsAcrossB, Columns>(column + 16 * j + fourth + (IsAcrossB ? 0 : in_matrix),
                                                                depth + second + (IsAcrossB ? in_matrix : 0)));
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        mma_m16n8k16(sum[i][j], left[i], {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]});
  }
}

// Word j of lane q of four neighbours becomes word q of lane j.
__device__ inline void transpose_quad(unsigned (&word)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j & bit) continue;
      const bool is_upper = threadIdx.x & bit;
      const unsigned got = __shfl_xor_sync(kAllLanes, is_upper ? word[j] : word[j | bit], bit);
      (is_upper ? word[j] : word[j | bit]) = got;
    }
}

// A lane has pairs of neighbours in four blocks of 8 columns; of bf16 it trades them for 8 neighbours in one block, so
// that it stores 16 bytes. Pairs of f32 already fill sectors together with the lanes beside.
__device__ inline void store_sums(const Tile<bf16, bf16>& tile, const WarpSums& sum, int row, int column, bool) {
  const int lane = threadIdx.x % kWarp, own_row = row + lane / 4, own_column = column + lane % 4 * 8;
  // Indexed by 16 bytes: the store of a pack at a sum of bf16 offsets is split by nvcc 13 (see store_pack).
  uint4* c = reinterpret_cast<uint4*>(tile.c);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    unsigned word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* pair = sum[i / 2][j] + i % 2 * 2;
      word[j] = narrow<bf16>(pair[0]).bits | static_cast<unsigned>(narrow<bf16>(pair[1]).bits) << 16;
    }
    transpose_quad(word);
    if (own_row + 8 * i < tile.rows && own_column < tile.columns)
      c[((own_row + 8 * i) * tile.c_stride + own_column) / 8] = make_uint4(word[0], word[1], word[2], word[3]);
  }
}
__device__ inline void store_sums(const Tile<bf16, float>& tile, const WarpSums& sum, int row, int column,
                                  bool accumulate) {
  const int lane = threadIdx.x % kWarp, own_row = row + lane / 4, own_column = column + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (own_row + 8 * i >= tile.rows || own_column + 8 * j >= tile.columns) continue;
      float* c = tile.c + (own_row + 8 * i) * tile.c_stride + own_column + 8 * j;
      Pack<float, 2> pair{sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]};
      if (accumulate) {
        const Pack<float, 2> old = load_pack<2>(c);
        pair = {old.lane[0] + pair.lane[0], old.lane[1] + pair.lane[1]};
      }
      store_pack(c, pair);
    }
}

// grid_of<Kind, 128, Columns>; a block owns a tile of c, a warp 64 x 32 of it, in registers. Shared memory: three
// slices of a and b (48 KB with 128 columns, 36 KB with 64), of which one is used while two are on their way. Must move
// a and c once and, per expert with rows, its weights.
template <Grouped Kind, int Columns, class C>
__global__ void __launch_bounds__(TensorTile::threads(Columns), 2)
    grouped_tensor_kernel(const GroupedOperands<bf16, C> g) {
  constexpr int kThreads = TensorTile::threads(Columns), kRows = TensorTile::kRows, kDepth = TensorTile::kDepth;
  constexpr int kStages = TensorTile::kStages;
  constexpr bool kA = kIsAcrossA<Kind>, kB = kIsAcrossB<Kind>;
  __shared__ alignas(128) bf16 slices[kStages][(kRows + Columns) * kDepth];
  const Tile<bf16, C> tile = tile_of_block<Kind, kRows, Columns>(g);
  if (tile.rows == 0) return;
  const unsigned shared = shared_address(slices);
  const auto a_slice = [&](int stage) { return shared + stage * static_cast<unsigned>(sizeof slices[0]); };
  const auto b_slice = [&](int stage) { return a_slice(stage) + kRows * kDepth * 2; };

  const bf16 *a = tile.a, *b = tile.b;  // the next slice to be fetched
  std::int64_t left = tile.depth;
  const auto fetch = [&](int stage) {
    if (left > 0) {
      fetch_slice<kA, kRows, kThreads>(a_slice(stage), a, tile.a_stride, tile.rows, left);
      fetch_slice<kB, Columns, kThreads>(b_slice(stage), b, tile.b_stride, tile.columns, left);
      a += kDepth * (kA ? tile.a_stride : 1);
      b += kDepth * (kB ? tile.b_stride : 1);
      left -= kDepth;
    }
    copy_commit();  // also without a slice: copy_wait counts them
  };
  const int warp = threadIdx.x / kWarp;
  const int row = warp % 2 * TensorTile::kWarpRows, column = warp / 2 * TensorTile::kWarpColumns;
  WarpSums sum = {};
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  int use = 0, fill = kStages - 1;
  for (std::int64_t depth = 0; depth < tile.depth; depth += kDepth) {
    copy_wait<kStages - 2>();
    __syncthreads();
    fetch(fill);
    if (row < tile.rows) multiply_slice<kA, kB, Columns>(sum, a_slice(use), b_slice(use), row, column);
    fill = use;
    use = use + 1 == kStages ? 0 : use + 1;
  }
  store_sums(tile, sum, row, column, g.accumulate);
}

}  // namespace omni
