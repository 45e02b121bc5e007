#pragma once
// Copies of q, k, v and do as tiles are filled from them (kernels/amx.h), in panels of 32 rows, each row padded with
// zeros to a whole number of tiles.

#include "kernels/amx.h"
#include "kernels/attention/panels.h"

#ifdef OMNI_HAS_AMX

namespace omni {

// Two neighbouring numbers of the depth of a product.
using Pair = std::uint32_t;

// panel [kPanel, width]: rows first, first + 1, ... of a head that has `rows` of them. As tiles of A, rows by head_dim.
inline void copy_panel(bf16* panel, std::int64_t width, const HeadRows<bf16>& from, std::int64_t first,
                       std::int64_t rows, std::int64_t head_dim) {
  for (std::int64_t i = 0; i < kPanel; ++i) {
    bf16* to = panel + i * width;
    const std::int64_t count = first + i < rows ? head_dim : 0;
    if (count > 0) std::copy_n(from.row(first + i), count, to);
    std::fill_n(to + count, width - count, bf16{});
  }
}

// pairs [kTile, width] of numbers of one column in two rows [kPanel, width]. As tiles of B, rows by columns.
inline void pair_rows(Pair* pairs, const bf16* panel, std::int64_t width) {
  for (std::int64_t i = 0; i < kTile; ++i, panel += 2 * width, pairs += width)
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d)
      pairs[d] = panel[d].bits | static_cast<std::uint32_t>(panel[width + d].bits) << 16;
}

// to [columns, rows]: from [rows, columns] transposed, both of them multiples of 16. `to_stride` is that of its rows.
template <class T>
void transpose(T* to, std::int64_t to_stride, const T* from, std::int64_t rows, std::int64_t columns) {
  static_assert(sizeof(T) == 4);
  for (std::int64_t i = 0; i < rows; i += kTile)
    for (std::int64_t j = 0; j < columns; j += kTile)
      load_square(to + j * to_stride + i, to_stride, from + i * columns + j, columns, kTile, kTile, true);
}

// pairs [width / 2, kPanel] of neighbours in the rows [kPanel, width], transposed. As tiles of B, head_dim by rows.
inline void pair_columns(Pair* pairs, const bf16* panel, std::int64_t width) {
  transpose(pairs, kPanel, reinterpret_cast<const Pair*>(panel), kPanel, width / 2);
}

inline void round_row(bf16* to, const float* from, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<bf16>(from[i]);
}

// Rows [kPanel or more, width] of a panel as tiles of A.
inline TilePair rows_tiles(const bf16* panel, std::int64_t width) {
  const long row_bytes = width * static_cast<long>(sizeof(bf16));
  return {panel, row_bytes, kTile * row_bytes, kTileDepth * sizeof(bf16)};
}

// Pairs [depth / 2, width] as tiles of B.
inline TilePair pairs_tiles(const Pair* pairs, std::int64_t width) {
  const long row_bytes = width * static_cast<long>(sizeof(Pair));
  return {pairs, row_bytes, kTile * sizeof(Pair), kTile * row_bytes};
}

}  // namespace omni

#endif
