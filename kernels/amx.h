#pragma once
// The matrix units of Intel processors (AMX), which multiply bf16 and add up in f32. OMNI_HAS_AMX tells whether the
// target has them.
//
// A tile register holds 16 rows of 64 bytes: 16 rows of A by 32 deep, 32 deep of B by 16 columns, or 16 x 16 sums. Each
// number of 32 bits of A or B is two neighbours in the depth. What is multiplied at once is two tiles of A by two of B,
// so that each tile that is read is used twice.

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define OMNI_HAS_AMX

#include <asm/prctl.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace omni {

constexpr std::int64_t kTile = 16, kTileDepth = 32, kPanel = 2 * kTile;

// Linux lets only those use tile registers who have asked for it: saving them takes eight kilobytes a thread.
inline bool may_use_tiles() {
  constexpr int kTileData = 18;
  static const bool answer = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, kTileData) == 0;
  return answer;
}

// The tile registers of this thread, eight of 16 rows of 64 bytes, for the life of this object.
class TileRegisters {
 public:
  TileRegisters() {
    const Shape shape;
    _tile_loadconfig(&shape);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  struct alignas(64) Shape {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

// The four tiles of sums, [32, 32] in memory, their rows `stride` numbers apart: 0 and 1 above 2 and 3. GCC does not
// know that tiles are read from memory and written to it, so that it is told where they are.
inline void load_sums(const float* c, std::int64_t stride, bool accumulate) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!accumulate) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  const long bytes = stride * static_cast<long>(sizeof(float));
  _tile_loadd(0, c, bytes);
  _tile_loadd(1, c + kTile, bytes);
  _tile_loadd(2, c + kTile * stride, bytes);
  _tile_loadd(3, c + kTile * stride + kTile, bytes);
}

inline void store_sums(float* c, std::int64_t stride) {
  const long bytes = stride * static_cast<long>(sizeof(float));
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kTile, bytes);
  _tile_stored(2, c + kTile * stride, bytes);
  _tile_stored(3, c + kTile * stride + kTile, bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

// The sums += tiles 4 and 5, of A, times 6 and 7, of B.
inline void add_tile_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Two tiles of one operand, and where those of the next 32 of the depth lie.
struct TilePair {
  const void* data;
  long row_bytes, to_second, to_next;
  const char* first(std::int64_t chunk) const { return static_cast<const char*>(data) + chunk * to_next; }
  const char* second(std::int64_t chunk) const { return first(chunk) + to_second; }
};

// c [32, 32], its rows `stride` numbers apart, (+)= a [32, depth] b [depth, 32], where the depth is `chunks` times 32.
inline void multiply_tiles(float* c, std::int64_t stride, const TilePair& a, const TilePair& b, std::int64_t chunks,
                           bool accumulate) {
  load_sums(c, stride, accumulate);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    _tile_loadd(4, a.first(chunk), a.row_bytes);
    _tile_loadd(6, b.first(chunk), b.row_bytes);
    _tile_loadd(7, b.second(chunk), b.row_bytes);
    _tile_loadd(5, a.second(chunk), a.row_bytes);
    add_tile_products();
  }
  store_sums(c, stride);
}

namespace amx_detail {

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

}  // namespace amx_detail

// to [16, 16], its rows `to_stride` apart: the numbers of 32 bits at `from`, whose rows are `stride` apart, or their
// transpose. Only `rows` by `width` of them exist, the others are 0.
[[gnu::always_inline]] inline void load_square(void* to, std::int64_t to_stride, const void* from, std::int64_t stride,
                                               std::int64_t rows, std::int64_t width, bool transposed) {
  const auto mask = static_cast<__mmask16>((1u << std::clamp<std::int64_t>(width, 0, kTile)) - 1);
  __m512 x[kTile];
  for (int i = 0; i < kTile; ++i)
    x[i] = _mm512_maskz_loadu_ps(i < rows ? mask : __mmask16{0}, static_cast<const float*>(from) + i * stride);
  if (transposed) {
    amx_detail::swap_quarters<8>(x);
    amx_detail::swap_quarters<4>(x);
    amx_detail::swap_quarters<2>(x);
    amx_detail::swap_quarters<1>(x);
  }
  for (int i = 0; i < kTile; ++i) _mm512_storeu_ps(static_cast<float*>(to) + i * to_stride, x[i]);
}

}  // namespace omni

#else

namespace omni {
inline bool may_use_tiles() { return false; }
}  // namespace omni

#endif
