#include "kernels/matmul/amx.h"

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)

#include <asm/prctl.h>
#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "kernels/rounding.h"
#include "kernels/simd.h"
#include "kernels/vector.h"

namespace omni {
namespace {

// A tile register holds 16 rows of 64 bytes: 16 rows of A by 32 deep, 32 deep of B by 16 columns, or 16 x 16 sums. What
// is multiplied at once is two tiles of A by two of B, so that each tile that is read is used twice.
constexpr std::int64_t kTile = 16, kTileDepth = 32, kTileNumbers = kTile * kTileDepth, kPanel = 2 * kTile;

// A panel is 32 rows of A, or columns of B, packed for these registers: [chunk of 32 deep, part, tile, 16, 16, 2]. In
// a tile of A the sixteen in front are rows, in one of B places in the depth. The two behind are numbers 16 deep
// apart, since the order in which a chunk's products are added is free.
constexpr int kParts = 3;
constexpr std::int64_t kPart = 2 * kTileNumbers, kChunk = kParts * kPart;

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

// One of four steps that transpose 16 rows of 16 numbers: of every square of 2 * distance, it swaps the two quarters
// beside the diagonal.
template <int distance>
[[gnu::always_inline]] inline void swap_quarters(__m512 (&x)[16]) {
  alignas(64) std::int32_t upper[16], lower[16];  // 0 to 15 are lanes of a, 16 to 31 of b
  for (int lane = 0; lane < 16; ++lane) {
    upper[lane] = lane & distance ? 16 + lane - distance : lane;
    lower[lane] = lane & distance ? 16 + lane : lane + distance;
  }
  for (int i = 0; i < 16; ++i)
    if (!(i & distance)) {
      const __m512 a = x[i], b = x[i + distance];
      x[i] = _mm512_permutex2var_ps(a, _mm512_load_si512(upper), b);
      x[i + distance] = _mm512_permutex2var_ps(a, _mm512_load_si512(lower), b);
    }
}

// to [16, 16]: the numbers at `from`, whose rows are `stride` apart, or their transpose. Only `rows` by `width` of them
// exist, the others are 0.
[[gnu::always_inline]] inline void load_square(float* to, const float* from, std::int64_t stride, std::int64_t rows,
                                               std::int64_t width, bool transposed) {
  const auto mask = static_cast<__mmask16>((1u << std::clamp<std::int64_t>(width, 0, kTile)) - 1);
  __m512 x[kTile];
  for (int i = 0; i < kTile; ++i) x[i] = _mm512_maskz_loadu_ps(i < rows ? mask : __mmask16{0}, from + i * stride);
  if (transposed) {
    swap_quarters<8>(x);
    swap_quarters<4>(x);
    swap_quarters<2>(x);
    swap_quarters<1>(x);
  }
  for (int i = 0; i < kTile; ++i) _mm512_store_ps(to + i * kTile, x[i]);
}

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
        load_square(halves[half], from, source.row_stride, rows, deep, is_b);
      else
        load_square(halves[half], from, source.depth_stride, deep, rows, !is_b);
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
  std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC does not know that tiles are read from memory
  constexpr long kRowBytes = kTileDepth * sizeof(bf16);
  const long c_bytes = stride * static_cast<long>(sizeof(float));
  float *const upper = c, *const lower = c + kTile * stride;
  const auto load_a = [&](int part) {
    _tile_loadd(4, a + part * kPart, kRowBytes);
    _tile_loadd(5, a + part * kPart + kTileNumbers, kRowBytes);
  };
  const auto load_b = [&](int part) {
    _tile_loadd(6, b + part * kPart, kRowBytes);
    _tile_loadd(7, b + part * kPart + kTileNumbers, kRowBytes);
  };
  const auto add_products = [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  };
  if (accumulate) {
    _tile_loadd(0, upper, c_bytes);
    _tile_loadd(1, upper + kTile, c_bytes);
    _tile_loadd(2, lower, c_bytes);
    _tile_loadd(3, lower + kTile, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk, a += kChunk, b += kChunk) {
    // In this order a product by 1 is exact, and one of the two operands is always there already.
    load_a(1), load_b(1), add_products();
    load_a(0), add_products();
    load_b(2), add_products();
    load_b(0), add_products();
    load_a(1), add_products();
    load_a(2), add_products();
  }
  _tile_stored(0, upper, c_bytes);
  _tile_stored(1, upper + kTile, c_bytes);
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + kTile, c_bytes);
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

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Linux lets only those use tile registers who have asked for it: saving them takes eight kilobytes a thread.
bool may_use_tiles() {
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, kTileData) == 0;
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
    const TileConfig config;
    _tile_loadconfig(&config);
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
    _tile_release();
  }
}

}  // namespace

bool amx_matmul(const CpuContext& cpu, const Matmul& op) {
  if (op.a.dtype != DType::f32 || op.b.dtype != DType::f32) return false;
  if (2 * op.m() * op.n() < kLeastMean * (op.m() + op.n())) return false;
  static const bool has_tiles = may_use_tiles();
  if (has_tiles) multiply_blocks(cpu, op);
  return has_tiles;
}

}  // namespace omni

#else

namespace omni {
bool amx_matmul(const CpuContext&, const Matmul&) { return false; }
}  // namespace omni

#endif
