#pragma once
// One vector register as a C++ type, and small matrix products on tiles that lie in cache. GCC's and Clang's vector
// extensions compile these to the target's instructions; a vector wider than its registers would be kept in memory.

#include <bit>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "kernels/dtype.h"

namespace omni {

// A register's bytes, and how many rows and vectors of a product stay in registers beside its operands: 24 of AVX-512's
// 32, or 12 of 16. Both keep two multiply-add pipes busy.
#ifdef __AVX512BW__
inline constexpr int kVectorBytes = 64, kTileRows = 8, kTileVectors = 3;
#else
inline constexpr int kVectorBytes = 32, kTileRows = 6, kTileVectors = 2;
#endif

// A register of W (float or double), or narrower numbers that widen to one.
template <class W>
struct Lanes {
  static constexpr std::int64_t count = kVectorBytes / sizeof(W);
  typedef W Vector __attribute__((vector_size(kVectorBytes)));
};
template <class W>
using Vector = typename Lanes<W>::Vector;

// Reads consecutive values, from any address, as W.
template <class W>
inline Vector<W> load_vector(const W* from) {
  Vector<W> out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
template <class W>
inline Vector<W> load_vector(const bf16* from) {
  static_assert(sizeof(W) == 4);
  typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return std::bit_cast<Vector<W>>(__builtin_convertvector(halves, Words) << 16);
}
template <class W>
inline Vector<W> load_vector(const std::int8_t* from) {
  static_assert(sizeof(W) == 4);
  typedef std::int8_t Bytes __attribute__((vector_size(kVectorBytes / 4)));
  typedef std::int32_t Words __attribute__((vector_size(kVectorBytes)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
#if defined(__AVX512BW__)  // one instruction, of which compilers make many
  const Words words = reinterpret_cast<Words>(_mm512_maskz_cvtepi8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
#elif defined(__AVX2__)
  const Words words =
      reinterpret_cast<Words>(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(std::bit_cast<std::int64_t>(bytes))));
#else
  typedef std::int16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  const Words words = __builtin_convertvector(__builtin_convertvector(bytes, Halves), Words);
#endif
  return __builtin_convertvector(words, Vector<W>);
}
template <class W>
inline void store_vector(W* to, const Vector<W>& value) {
  std::memcpy(to, &value, sizeof value);
}

// The sum of all lanes, as a balanced tree.
template <class W>
inline W sum_lanes(const Vector<W>& value) {
  W lanes[Lanes<W>::count];
  store_vector(lanes, value);
  for (std::int64_t half = Lanes<W>::count / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// A matrix in cache that is read one value at a time: element (i, k) is data[i * row + k * column], so a transposed
// matrix is the same data with the strides exchanged.
template <class W>
struct Strided {
  const W* data;
  std::int64_t row, column;
};

namespace tile_detail {

// R rows times V vectors of the product, held in registers over the whole depth.
template <class W, int R, int V>
inline void block(W* c, std::int64_t c_row, const Strided<W>& a, const W* b, std::int64_t b_row, std::int64_t depth,
                  bool accumulate) {
  constexpr std::int64_t lanes = Lanes<W>::count;
  Vector<W> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = accumulate ? load_vector<W>(c + r * c_row + v * lanes) : Vector<W>{};
  for (std::int64_t k = 0; k < depth; ++k) {
    Vector<W> right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = load_vector<W>(b + k * b_row + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const W left = a.data[r * a.row + k * a.column];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_vector<W>(c + r * c_row + v * lanes, sum[r][v]);
}

// R rows of the product: as many blocks of V vectors as there are, then narrower ones.
template <class W, int R, int V = kTileVectors>
inline void rows(W* c, std::int64_t c_row, const Strided<W>& a, const W* b, std::int64_t b_row, std::int64_t vectors,
                 std::int64_t depth, bool accumulate) {
  constexpr std::int64_t columns = V * Lanes<W>::count;
  for (; vectors >= V; vectors -= V, c += columns, b += columns)
    block<W, R, V>(c, c_row, a, b, b_row, depth, accumulate);
  if constexpr (V > 1) rows<W, R, V - 1>(c, c_row, a, b, b_row, vectors, depth, accumulate);
}

}  // namespace tile_detail

// c = a b, or c += a b:  c [rows, columns], a [rows, depth], b [depth, columns]; columns a multiple of the lane count.
template <class W>
inline void tile_product(W* c, std::int64_t c_row, Strided<W> a, const W* b, std::int64_t b_row, std::int64_t rows,
                         std::int64_t columns, std::int64_t depth, bool accumulate) {
  const std::int64_t vectors = columns / Lanes<W>::count;
  for (; rows >= kTileRows; rows -= kTileRows, c += kTileRows * c_row, a.data += kTileRows * a.row)
    tile_detail::rows<W, kTileRows>(c, c_row, a, b, b_row, vectors, depth, accumulate);
  for (; rows >= 2; rows -= 2, c += 2 * c_row, a.data += 2 * a.row)
    tile_detail::rows<W, 2>(c, c_row, a, b, b_row, vectors, depth, accumulate);
  if (rows == 1) tile_detail::rows<W, 1>(c, c_row, a, b, b_row, vectors, depth, accumulate);
}

}  // namespace omni
