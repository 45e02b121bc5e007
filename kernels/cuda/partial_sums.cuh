#pragma once
// Sums over rows, in two launches: first the blocks of a kernel add up rows of their own and write one row of partial
// sums each, then add_partials adds those.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {

// The grid of such a kernel whose warps take one row at a time and add up `sums` numbers per column in shared memory,
// each warp its own. One block of up to 16 warps per multiprocessor keeps the partial sums few; without sums there are
// as many blocks as are useful. Shared memory holds `window` columns, fewer than `width` only if they are very many;
// rows must then be gone through once for each window.
struct RowSumsPlan {
  RowSumsPlan(const CudaContext& cuda, std::int64_t rows, std::int64_t width, int sums) {
    constexpr std::int64_t kFloats = 48 * 1024 / sizeof(float), kMostWarps = 16;  // a kernel gets 48 KB without asking
    const std::int64_t most = kFloats / std::max(sums, 1);
    warps = static_cast<int>(std::clamp<std::int64_t>(most / width, 1, kMostWarps));
    window = static_cast<int>(std::min(width, most));
    shared_bytes = static_cast<std::size_t>(warps * sums * window) * sizeof(float);
    const std::int64_t useful = ceil_div(rows, warps);
    rows_per_block = ceil_div(rows, sums > 0 ? std::min<std::int64_t>(cuda.multiprocessors, useful) : useful);
    blocks = ceil_div(rows, rows_per_block);
  }

  int warps, window;  // a block has 32 * warps threads
  std::size_t shared_bytes;
  std::int64_t rows_per_block, blocks;
};

// Where a sum goes.
struct SumTarget {
  float* sum = nullptr;  // [width]; null: not wanted
  bool accumulate = false;
};

// sum[c] = partials[0][c] + partials[1][c] + ..., added in an order of its own that depends on `parts` alone, plus the
// old sum[c] if accumulate. No parts give zeros.
//   partials [parts, width], or [parts, 2, width] where there is a second target
void add_partials(const CudaContext& cuda, const char* instruction, const float* partials, std::int64_t parts,
                  std::int64_t width, const SumTarget& target);
void add_partials(const CudaContext& cuda, const char* instruction, const float* partials, std::int64_t parts,
                  std::int64_t width, const SumTarget& first, const SumTarget& second);

}  // namespace omni
