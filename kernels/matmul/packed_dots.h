#pragma once
// Dot products with packed weights (kernels/matmul/packed.h). Unpacking 128 of them takes some twenty instructions of
// AVX-512 or three times as many of AVX2, less than the time in which memory delivers their 192 bytes.

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <bit>
#include <type_traits>

#include "kernels/matmul/packed.h"
#include "kernels/vector.h"

namespace omni {

// The line that lies `ahead` bytes behind `at` will be wanted some microseconds from now, for `rows` activation rows.
// Processors that fetch ahead by themselves stop at the end of a page, and start late: without this, an Intel Xeon with
// AVX-512 reads at two thirds of the rate. An AMD EPYC without AVX-512 fetches far enough for one row, and with this
// reads a tenth slower; with more rows it computes so much between reads that it needs this, too.
template <int rows>
inline void prefetch(const void* at, std::int64_t ahead = 0) {
  constexpr std::int64_t kDistance = 3072;
  constexpr bool has_avx512 = kVectorBytes == 64;
  if constexpr (has_avx512 || rows > 1) __builtin_prefetch(static_cast<const char*>(at) + kDistance + ahead);
}

namespace packed_detail {

// What the lanes of a dot product are added up in. Without an instruction that multiplies pairs and adds them, even and
// odd numbers have sums of their own, so that all of it is multiply-adds; those of several rows would leave the
// registers.
struct EvenOdd {
  Vector<float> even, odd;
};
#if defined(__AVX2__) && !defined(__AVX512BF16__)
template <int rows>
using Sums = std::conditional_t<rows == 1, EvenOdd, Vector<float> >;
#else
template <int>
using Sums = Vector<float>;
#endif
inline float total(const Vector<float>& sums) { return sum_lanes<float>(sums); }
inline float total(const EvenOdd& sums) { return total(sums.even + sums.odd); }

// A register of numbers in bf16, and of bytes.
typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes)));
typedef std::uint8_t Bytes __attribute__((vector_size(kVectorBytes)));

template <class V>
V load(const void* from) {
  V out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

#ifdef __AVX2__
#ifdef __AVX512BW__
using Register = __m512i;
inline Register repeat(__m128i x) { return _mm512_maskz_broadcast_i32x4(0xffff, x); }
inline Register look_up(Register table, Register at) { return _mm512_shuffle_epi8(table, at); }
inline Register interleave_first(Register a, Register b) { return _mm512_unpacklo_epi8(a, b); }
inline Register interleave_last(Register a, Register b) { return _mm512_unpackhi_epi8(a, b); }
#else
using Register = __m256i;
inline Register repeat(__m128i x) { return _mm256_broadcastsi128_si256(x); }
inline Register look_up(Register table, Register at) { return _mm256_shuffle_epi8(table, at); }
inline Register interleave_first(Register a, Register b) { return _mm256_unpacklo_epi8(a, b); }
inline Register interleave_last(Register a, Register b) { return _mm256_unpackhi_epi8(a, b); }
#endif

// Numbers whose low bytes and codes (4 bits each) are these: those that the first eight bytes of each 16 stand for, and
// those of the last eight.
struct Unpacked {
  Halves first, last;
};
inline Unpacked unpack(Bytes low, Bytes codes) {
  const __m128i upper_byte_of = _mm_setr_epi8(0, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,  //
                                              -0x80, -0x47, -0x46, -0x45, -0x44, -0x43, -0x42, -0x41);
  const Register upper = look_up(repeat(upper_byte_of), reinterpret_cast<Register>(codes)),
                 lower = reinterpret_cast<Register>(low);
  return {reinterpret_cast<Halves>(interleave_first(lower, upper)),
          reinterpret_cast<Halves>(interleave_last(lower, upper))};
}

// Activations as add_products wants them, and sums += activations * weights.
#ifdef __AVX512BF16__
using Activations = __m512bh;
inline Activations activations(const bf16* x) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)); }
inline void add_products(Vector<float>& sums, const Activations& x, Halves weights) {
  sums = _mm512_dpbf16_ps(sums, x, reinterpret_cast<__m512bh>(weights));
}
#else
typedef std::uint32_t Words __attribute__((vector_size(kVectorBytes)));
inline Vector<float> even(Halves x) { return std::bit_cast<Vector<float> >(reinterpret_cast<Words>(x) << 16); }
inline Vector<float> odd(Halves x) { return std::bit_cast<Vector<float> >(reinterpret_cast<Words>(x) & 0xffff0000u); }
using Activations = EvenOdd;
inline Activations activations(const bf16* x) {
  const Halves halves = load<Halves>(x);
  return {even(halves), odd(halves)};
}
inline void add_products(EvenOdd& sums, const Activations& x, Halves weights) {
  sums.even += x.even * even(weights);
  sums.odd += x.odd * odd(weights);
}
inline void add_products(Vector<float>& sums, const Activations& x, Halves weights) {
  sums += x.even * even(weights) + x.odd * odd(weights);
}
#endif

// One block of each of `columns` rows of weights, stride bytes apart, times those of `rows` activation rows, k apart.
template <int rows, int columns>
inline void add_block(Sums<rows> (&sums)[rows][columns], const bf16* x, std::int64_t k, const std::uint8_t* block,
                      std::int64_t stride) {
  constexpr std::int64_t half = PackedMatrix::kBlock / 2, numbers = kVectorBytes / 2;
  for (std::int64_t part = 0; part < half / kVectorBytes; ++part)
    for (std::int64_t h = 0; h < 2; ++h)
      for (int r = 0; r < rows; ++r) {
        const bf16* at = x + r * k + h * half + part * numbers;
        const Activations x_first = activations(at), x_last = activations(at + half / 2);
        for (int c = 0; c < columns; ++c) {
          const std::uint8_t* data = block + c * stride + part * kVectorBytes;
          const Bytes codes = load<Bytes>(data + 2 * half);
          const Unpacked weights = unpack(load<Bytes>(data + h * half), h == 0 ? codes & 15 : codes >> 4);
          add_products(sums[r][c], x_first, weights.first);
          add_products(sums[r][c], x_last, weights.last);
        }
      }
}
#else
template <int rows, int columns>
inline void add_block(Sums<rows> (&sums)[rows][columns], const bf16* x, std::int64_t k, const std::uint8_t* block,
                      std::int64_t stride) {
  constexpr std::int64_t half = PackedMatrix::kBlock / 2;
  for (int c = 0; c < columns; ++c, block += stride)
    for (std::int64_t i = 0; i < PackedMatrix::kBlock; ++i) {
      const std::int64_t h = i / half, place = packed_place(i % half);
      const float weight = to_float(unpack(block[2 * half + place] >> 4 * h & 15, block[h * half + place]));
      for (int r = 0; r < rows; ++r) sums[r][c][i % Lanes<float>::count] += weight * to_float(x[r * k + i]);
    }
}
#endif

}  // namespace packed_detail

// What matvec multiplies by, as its PlainDots: activations in bf16.
struct PackedDots {
  using A = bf16;
  PackedMatrix w;
  std::int64_t k;  // a whole number of blocks

  // The dot products of `rows` activation rows with `columns` rows of weights that lie `stride` rows apart.
  //   sums [rows, columns], x [rows, k] with zeros behind the width of w
  template <int rows, int columns>
  void dots(float* sums, const bf16* x, std::int64_t first, std::int64_t stride) const {
    packed_detail::Sums<rows> partial[rows][columns] = {};
    const std::int64_t row_bytes = w.blocks() * PackedMatrix::kBlockBytes;
    const std::uint8_t* block = w.row(first);
    // Where a row ends it wants its scale and outliers, too thin a stream for processors to follow: the line behind
    // that of this row is asked for now, and the outliers of the next row.
    for (int c = 0; c < columns; ++c) {
      const std::int64_t row = first + c * stride;
      __builtin_prefetch(w.scale + row + 16);
      __builtin_prefetch(w.first_outlier + row + 8);
      __builtin_prefetch(w.outliers + w.first_outlier[row + 1]);
    }
    for (std::int64_t i = 0; i < w.blocks(); ++i, block += PackedMatrix::kBlockBytes) {
      for (int c = 0; c < columns; ++c)
        for (std::int64_t line = 0; line < PackedMatrix::kBlockBytes; line += 64)
          prefetch<rows>(block + c * stride * row_bytes, line);
      packed_detail::add_block<rows, columns>(partial, x + i * PackedMatrix::kBlock, k, block, stride * row_bytes);
    }
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        const std::int64_t row = first + c * stride;
        float sum = packed_detail::total(partial[r][c]) * w.scale[row];
        for (std::int64_t i = w.first_outlier[row]; i < w.first_outlier[row + 1]; ++i)
          sum += to_float(x[r * k + w.outliers[i].column]) * w.outliers[i].value;
        sums[r * columns + c] = sum;
      }
  }
};

}  // namespace omni
