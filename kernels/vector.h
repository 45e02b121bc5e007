#pragma once
// One vector register as a C++ type, and small matrix products on tiles that lie in cache. GCC's and Clang's vector
// extensions compile these to whatever the target has; the lane count is fixed, so results do not depend on it.

#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "kernels/dtype.h"

namespace omni {

// 64 bytes of W (float or double): 16 or 8 lanes.
template <class W>
struct Lanes {
  static constexpr std::int64_t count = 64 / sizeof(W);
  typedef W Vector __attribute__((vector_size(64)));
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
  typedef std::uint16_t Halves __attribute__((vector_size(32)));
  typedef std::uint32_t Words __attribute__((vector_size(64)));
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return std::bit_cast<Vector<W>>(__builtin_convertvector(halves, Words) << 16);
}
template <class W>
inline Vector<W> load_vector(const std::int8_t* from) {
  static_assert(sizeof(W) == 4);
  typedef std::int8_t Bytes __attribute__((vector_size(16)));
  typedef std::int32_t Words __attribute__((vector_size(64)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
#ifdef __AVX512F__  // one instruction, of which compilers make many
  const Words words = reinterpret_cast<Words>(_mm512_maskz_cvtepi8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
#else
  typedef std::int16_t Halves __attribute__((vector_size(32)));
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

template <class W, int R>
inline void rows(W* c, std::int64_t c_row, const Strided<W>& a, const W* b, std::int64_t b_row, std::int64_t vectors,
                 std::int64_t depth, bool accumulate) {
  constexpr std::int64_t lanes = Lanes<W>::count;
  std::int64_t v = 0;
  for (; v + 3 <= vectors; v += 3) block<W, R, 3>(c + v * lanes, c_row, a, b + v * lanes, b_row, depth, accumulate);
  if (vectors - v == 2) block<W, R, 2>(c + v * lanes, c_row, a, b + v * lanes, b_row, depth, accumulate);
  if (vectors - v == 1) block<W, R, 1>(c + v * lanes, c_row, a, b + v * lanes, b_row, depth, accumulate);
}

}  // namespace tile_detail

// c = a b, or c += a b:  c [rows, columns], a [rows, depth], b [depth, columns]; columns a multiple of the lane count.
// 8 x 3 registers of sums keep both multiply-add pipes of a current core busy.
template <class W>
inline void tile_product(W* c, std::int64_t c_row, Strided<W> a, const W* b, std::int64_t b_row, std::int64_t rows,
                         std::int64_t columns, std::int64_t depth, bool accumulate) {
  const std::int64_t vectors = columns / Lanes<W>::count;
  for (; rows >= 8; rows -= 8, c += 8 * c_row, a.data += 8 * a.row)
    tile_detail::rows<W, 8>(c, c_row, a, b, b_row, vectors, depth, accumulate);
  for (; rows >= 2; rows -= 2, c += 2 * c_row, a.data += 2 * a.row)
    tile_detail::rows<W, 2>(c, c_row, a, b, b_row, vectors, depth, accumulate);
  if (rows == 1) tile_detail::rows<W, 1>(c, c_row, a, b, b_row, vectors, depth, accumulate);
}

}  // namespace omni
