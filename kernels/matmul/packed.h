#pragma once
// Weights in bf16 packed into 12 bits a number, without loss: decoding is bound by the bytes of the weights, so a
// quarter less of them is a third more speed.
//
// The weights of a row differ in sign and mantissa as noise does, but their exponents are alike: nearly all lie within
// 14 of the largest (cf. Zhang et al., "70% size, 100% accuracy: DFloat11", arXiv 2504.11651, which codes them with a
// variable length; a fixed one needs no search). A number is kept as its low byte (mantissa and the last bit of the
// exponent) and four bits: the sign and the upper bits of code = exponent - largest exponent of the row + 15, which is
// 2 to 15, or 0 for the number zero. The few numbers that are smaller are kept apart, as outliers.
//
// 128 numbers of a row are 192 bytes, three cache lines: the low bytes of the first 64, of the others, then 64 bytes
// with four bits of a number of the first half in the low and of the second half in the high bits.

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/rounding.h"

namespace omni {

// Whether multiplying by packed weights is fast on the machine that this was compiled for.
#ifdef __AVX2__
inline constexpr bool kPackedIsFast = true;
#else
inline constexpr bool kPackedIsFast = false;
#endif

// A packed matrix, owned by somebody else.
struct PackedMatrix {
  static constexpr std::int64_t kBlock = 128, kBlockBytes = 192;
  struct Outlier {
    std::int32_t column;
    float value;
  };

  std::int64_t rows = 0, width = 0;
  const std::uint8_t* data = nullptr;           // [rows, blocks(), kBlockBytes]
  const float* scale = nullptr;                 // [rows], powers of two
  const std::int64_t* first_outlier = nullptr;  // [rows + 1]
  const Outlier* outliers = nullptr;

  explicit operator bool() const { return data != nullptr; }
  std::int64_t blocks() const { return ceil_div(width, kBlock); }
  std::int64_t bytes() const { return rows * blocks() * kBlockBytes; }
  const std::uint8_t* row(std::int64_t index) const { return data + index * blocks() * kBlockBytes; }
  PackedMatrix slice(std::int64_t first, std::int64_t count) const;
};

// The memory of one.
class PackedWeights {
 public:
  PackedWeights() = default;
  // matrix: bf16 [rows, width] in host memory
  explicit PackedWeights(const ConstView& matrix);
  PackedMatrix view() const;

 private:
  std::int64_t rows_ = 0, width_ = 0;
  Buffer data_;
  std::vector<float> scale_;
  std::vector<std::int64_t> first_outlier_;
  std::vector<PackedMatrix::Outlier> outliers_;
};

// The number that code (4 bits) and low byte stand for, before the row's scale: its exponent is 0111 and the code.
inline bf16 unpack(unsigned code, std::uint8_t low) {
  const unsigned upper = (code & 7) == 0 ? 0 : 0x38 | (code & 7);
  return {static_cast<std::uint16_t>((code & 8) << 12 | upper << 8 | low)};
}

// Where number i of half a block (64) stands in it: so that interleaving low bytes and upper halves within 16-byte
// lanes, as AVX-512 does, gives numbers 0 to 31 and 32 to 63 in their order.
constexpr std::int64_t packed_place(std::int64_t i) { return i % 32 / 8 * 16 + i % 8 + i / 32 * 8; }

}  // namespace omni
