#include "kernels/matmul/amx.h"

#include "kernels/amx.h"

#ifdef OMNI_HAS_AMX

#include <omp.h>

#include "kernels/rounding.h"
#include "kernels/simd.h"
#include "kernels/vector.h"

namespace omni {
namespace {

// A panel is 32 rows of A, or columns of B, packed for these registers: [chunk of 32 deep, part, tile, 16, 16, 2]. In
// a tile of A the sixteen in front are rows, in one of B places in the depth. The two behind are numbers 16 deep
// apart, since the order in which a chunk's products are added is free.
constexpr int kParts = 3;
constexpr std::int64_t kTileNumbers = kTile * kTileDepth, kPart = 2 * kTileNumbers, kChunk = kParts * kPart;

// The largest block of A that stays in a core's second cache, and of B, which all cores share.
constexpr std::int64_t kRows = 256, kColumns = 2048, kDepth = 768;

// Below this harmonic mean of m and n packing the operands takes more time than these units save.
constexpr std::int64_t kLeastMean = 512;

// The size of a block when `size` is split evenly into blocks of at most `most`, their number a multiple of `times`.
constexpr std::int64_t block_of(std::int64_t size, std::int64_t most, std::int64_t unit, std::int64_t times = 1) {
  return round_up(ceil_div(size, round_up(ceil_div(size, most), times)), unit);
}

// A, or B transposed: rows by depth, where the next of one of them is the next number in memory.
struct Source {
  const float* data;
  std::int64_t row_stride, depth_stride, rows, depth;
};

typedef std::uint32_t Words __attribute__((vector_size(64)));

// The bits of the nearest numbers of bf16 (of two as near, that farther from 0), in the upper halves. What is left
// after two parts is such a number, or NaN, which rounding could make a 0.
Words part_of(Vector<float> x, int part) {
  const Words bits = reinterpret_cast<Words>(x);
  return part == kParts - 1 ? bits : (bits + 0x8000u) & 0xffff0000u;
}

// Packs one chunk of the panel that begins at `row`.
void pack_chunk(bf16* to, const Source& source, std::int64_t row, std::int64_t depth, bool is_b) {
  alignas(64) float halves[2][kTile * kTile];  // of the depth
  for (int tile = 0; tile < 2; ++tile, row += kTile, to += kTileNumbers) {
    const std::int64_t rows = source.rows - row;
    for (int half = 0; half < 2; ++half) {
      const std::int64_t d = depth + half * kTile, deep = source.depth - d;
      const float* from = source.data + row * source.row_stride + d * source.depth_stride;
      if (source.depth_stride == 1)
        load_square(halves[half], kTile, from, source.row_stride, rows, deep, is_b);
      else
        load_square(halves[half], kTile, from, source.depth_stride, deep, rows, !is_b);
    }
    for (int i = 0; i < kTile; ++i) {
      auto first = load_vector<float>(halves[0] + i * kTile), second = load_vector<float>(halves[1] + i * kTile);
      for (int part = 0; part < kParts; ++part) {
        const Words upper = part_of(second, part), lower = part_of(first, part), pairs = upper | lower >> 16;
        std::memcpy(to + part * kPart + i * kTileDepth, &pairs, sizeof pairs);
        first -= reinterpret_cast<Vector<float>>(lower);
        second -= reinterpret_cast<Vector<float>>(upper);
      }
    }
  }
}

void pack_panel(bf16* to, const Source& source, std::int64_t row, std::int64_t depth, std::int64_t chunks, bool is_b) {
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
    pack_chunk(to + chunk * kChunk, source, row, depth + chunk * kTileDepth, is_b);
}

// c [32, 32], its rows `stride` apart, = a panel of A times one of B (+ c).
void multiply(float* c, std::int64_t stride, const bf16* a, const bf16* b, std::int64_t chunks, bool accumulate) {
  constexpr long kRowBytes = kTileDepth * sizeof(bf16);
  const auto load_a = [&](int part) {
    _tile_loadd(4, a + part * kPart, kRowBytes);
    _tile_loadd(5, a + part * kPart + kTileNumbers, kRowBytes);
  };
  const auto load_b = [&](int part) {
    _tile_loadd(6, b + part * kPart, kRowBytes);
    _tile_loadd(7, b + part * kPart + kTileNumbers, kRowBytes);
  };
  load_sums(c, stride, accumulate);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk, a += kChunk, b += kChunk) {
    // In this order a product by 1 is exact, and one of the two operands is always there already.
    load_a(1), load_b(1), add_tile_products();
    load_a(0), add_tile_products();
    load_b(2), add_tile_products();
    load_b(0), add_tile_products();
    load_a(1), add_tile_products();
    load_a(2), add_tile_products();
  }
  store_sums(c, stride);
}

// A panel by a panel of the result, of which some rows and columns may not exist.
struct Block {
  float* c;
  std::int64_t stride, rows, columns;
  bool is_whole() const { return rows == kPanel && columns == kPanel; }
};

void copy(float* to, std::int64_t to_stride, const float* from, std::int64_t from_stride, const Block& block) {
  for (std::int64_t i = 0; i < block.rows; ++i) std::copy_n(from + i * from_stride, block.columns, to + i * to_stride);
}

// As multiply(), for any block.
void multiply_block(const Block& block, const bf16* a, const bf16* b, std::int64_t chunks, bool accumulate) {
  if (block.is_whole()) return multiply(block.c, block.stride, a, b, chunks, accumulate);
  alignas(64) float whole[kPanel * kPanel] = {};
  if (accumulate) copy(whole, kPanel, block.c, block.stride, block);
  multiply(whole, kPanel, a, b, chunks, accumulate);
  copy(block.c, block.stride, whole, kPanel, block);
}

void add_bias(const Block& block, const float* bias) {
  for (std::int64_t i = 0; i < block.rows; ++i)
#pragma omp simd
    for (std::int64_t j = 0; j < block.columns; ++j) block.c[i * block.stride + j] += bias[j];
}

// In blocks of the depth and of columns, whose share of B all threads pack; then each takes blocks of rows.
void multiply_blocks(const CpuContext& cpu, const Matmul& op) {
  const std::int64_t m = op.m(), n = op.n(), k = op.k();
  const Source a{op.a.as<float>(), op.transpose_a ? 1 : k, op.transpose_a ? m : 1, m, k};
  const Source b{op.b.as<float>(), op.transpose_b ? k : 1, op.transpose_b ? 1 : n, n, k};
  const std::int64_t rows = block_of(m, kRows, kPanel, cpu.threads), columns = block_of(n, kColumns, kPanel);
  const std::int64_t chunks = block_of(k, kDepth, kTileDepth) / kTileDepth, panel = chunks * kChunk;
  const std::int64_t a_numbers = rows / kPanel * panel, b_numbers = columns / kPanel * panel;
  bf16* packed_b = cpu.scratch<bf16>(1, b_numbers + cpu.threads * a_numbers).data;
#pragma omp parallel num_threads(cpu.threads)
  {
    const TileRegisters registers;
    bf16* packed_a = packed_b + b_numbers + omp_get_thread_num() * a_numbers;
    for (std::int64_t column = 0; column < n; column += columns)
      for (std::int64_t depth = 0; depth < k; depth += chunks * kTileDepth) {
        const std::int64_t b_panels = ceil_div(std::min(columns, n - column), kPanel);
#pragma omp for schedule(dynamic)
        for (std::int64_t j = 0; j < b_panels; ++j)
          pack_panel(packed_b + j * panel, b, column + j * kPanel, depth, chunks, true);
#pragma omp for schedule(dynamic)
        for (std::int64_t row = 0; row < m; row += rows) {
          const std::int64_t a_panels = ceil_div(std::min(rows, m - row), kPanel);
          for (std::int64_t i = 0; i < a_panels; ++i)
            pack_panel(packed_a + i * panel, a, row + i * kPanel, depth, chunks, false);
          for (std::int64_t j = 0; j < b_panels; ++j)
            for (std::int64_t i = 0; i < a_panels; ++i) {
              const std::int64_t r = row + i * kPanel, c = column + j * kPanel;
              const Block block{op.c.as<float>() + r * n + c, n, std::min(kPanel, m - r), std::min(kPanel, n - c)};
              multiply_block(block, packed_a + i * panel, packed_b + j * panel, chunks, depth > 0 || op.accumulate);
              if (depth == 0 && op.bias) add_bias(block, op.bias.as<float>() + c);
            }
        }
      }
  }
}

}  // namespace

bool amx_matmul(const CpuContext& cpu, const Matmul& op) {
  if (op.a.dtype != DType::f32 || op.b.dtype != DType::f32) return false;
  if (2 * op.m() * op.n() < kLeastMean * (op.m() + op.n())) return false;
  if (!may_use_tiles()) return false;
  multiply_blocks(cpu, op);
  return true;
}

}  // namespace omni

#else

namespace omni {
bool amx_matmul(const CpuContext&, const Matmul&) { return false; }
}  // namespace omni

#endif
