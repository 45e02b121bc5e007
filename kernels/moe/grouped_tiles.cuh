#pragma once
// How a grid that knows nothing of the offsets covers the products of all experts: the tiles of c, and which block
// computes which one.

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {

// The three products. A lies `along` if values that follow each other in the sum over depth follow each other in
// memory, else across.
//   forward         c [capacity, n] = a [capacity, k] b_e [n, k]^T     both along
//   backward        c [capacity, n] = a [capacity, k] b_e [k, n]       a along, b across
//   weight_gradient c_e [n, k] = a [capacity, n]^T b [capacity, k]     both across, depth: the rows of expert e
enum class Grouped { forward, backward, weight_gradient };

template <Grouped Kind>
inline constexpr bool kIsAcrossA = Kind == Grouped::weight_gradient;
template <Grouped Kind>
inline constexpr bool kIsAcrossB = Kind != Grouped::forward;

template <class T, class C>
struct GroupedOperands {
  C* c;
  const T *a, *b;
  const std::int64_t* offset;  // [experts + 1]
  std::int64_t experts, capacity, n, k;
  bool accumulate;
};

// One tile: c(i, j) = sum_d a(i, d) b(j, d) for i < rows, j < columns, d < depth, pointers at its first values. Value
// (i, d) of an operand that lies along is at i * stride + d, across at d * stride + i.
template <class T, class C>
struct Tile {
  C* c = nullptr;
  const T *a = nullptr, *b = nullptr;
  std::int64_t c_stride = 0, a_stride = 0, b_stride = 0, depth = 0;
  int rows = 0, columns = 0;  // no rows: nothing to do
};

// Some rows of one expert's segment; no rows in the tiles past the last segment.
struct RowTile {
  std::int64_t expert = 0, first = 0;
  int rows = 0;
};

// Tile number `tile` when every segment is cut into tiles of `Rows` rows, the last one shorter. To be called by all
// lanes of a warp: each looks at another expert.
template <int Rows>
__device__ RowTile find_rows(const std::int64_t* offset, std::int64_t experts, std::int64_t tile) {
  const int lane = threadIdx.x % kWarp;
  for (std::int64_t base = 0; base < experts; base += kWarp) {
    const std::int64_t e = base + lane;
    const std::int64_t begin = e < experts ? offset[e] : 0, end = e < experts ? offset[e + 1] : 0;
    const int tiles = static_cast<int>(ceil_div(end - begin, Rows));
    int upto = tiles;  // tiles of this lane's expert and the lanes before
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int before = __shfl_up_sync(kAllLanes, upto, distance);
      if (lane >= distance) upto += before;
    }
    if (const unsigned reached = __ballot_sync(kAllLanes, tile < upto)) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      const std::int64_t own_first = begin + (tile - (upto - tiles)) * Rows;
      const std::int64_t first = __shfl_sync(kAllLanes, own_first, owner), last = __shfl_sync(kAllLanes, end, owner);
      return {base + owner, first, static_cast<int>(min(std::int64_t{Rows}, last - first))};
    }
    tile -= __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
  return {};
}

// The grid for tiles of Rows x Columns. Row tiles of a product: as many as there can be, whatever the offsets are; they
// run fastest, so that blocks that run together share columns of the weights.
template <Grouped Kind, int Rows, int Columns, class T, class C>
dim3 grid_of(const GroupedOperands<T, C>& g) {
  if constexpr (Kind == Grouped::weight_gradient)
    return dim3(blocks_for(g.k, Columns), blocks_for(g.n, Rows), static_cast<unsigned>(g.experts));
  else
    return dim3(static_cast<unsigned>((g.capacity + g.experts * (Rows - 1)) / Rows), blocks_for(g.n, Columns));
}

// The tile of this block.
template <Grouped Kind, int Rows, int Columns, class T, class C>
__device__ Tile<T, C> tile_of_block(const GroupedOperands<T, C>& g) {
  Tile<T, C> tile;
  if constexpr (Kind == Grouped::weight_gradient) {
    const std::int64_t row = std::int64_t{blockIdx.y} * Rows, column = std::int64_t{blockIdx.x} * Columns;
    const std::int64_t expert = blockIdx.z, begin = g.offset[expert];
    tile = {.c = g.c + (expert * g.n + row) * g.k + column,
            .a = g.a + begin * g.n + row,
            .b = g.b + begin * g.k + column,
            .c_stride = g.k,
            .a_stride = g.n,
            .b_stride = g.k,
            .depth = g.offset[expert + 1] - begin,
            .rows = static_cast<int>(min(std::int64_t{Rows}, g.n - row)),
            .columns = static_cast<int>(min(std::int64_t{Columns}, g.k - column))};
    if (g.accumulate && tile.depth == 0) tile.rows = 0;
  } else {
    const RowTile part = find_rows<Rows>(g.offset, g.experts, blockIdx.x);
    const std::int64_t column = std::int64_t{blockIdx.y} * Columns;
    tile = {.c = g.c + part.first * g.n + column,
            .a = g.a + part.first * g.k,
            .b = g.b + part.expert * g.n * g.k + (Kind == Grouped::forward ? column * g.k : column),
            .c_stride = g.n,
            .a_stride = g.k,
            .b_stride = Kind == Grouped::forward ? g.k : g.n,
            .depth = g.k,
            .rows = part.rows,
            .columns = static_cast<int>(min(std::int64_t{Columns}, g.n - column))};
  }
  return tile;
}

}  // namespace omni
