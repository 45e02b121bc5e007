#include "kernels/matmul/packed.h"

#include <algorithm>
#include <bit>

namespace omni {
namespace {

constexpr int kLargestCode = 15, kLeastCode = 2;

int exponent_of(bf16 x) { return x.bits >> 7 & 0xff; }
bool is_finite(bf16 x) { return exponent_of(x) != 0xff; }
bool is_zero(bf16 x) { return (x.bits & 0x7fff) == 0; }

// The largest exponent of a row's finite numbers, at least that of the smallest normal number.
int largest_exponent(const bf16* row, std::int64_t width) {
  int largest = 1;
  for (std::int64_t i = 0; i < width; ++i)
    if (is_finite(row[i])) largest = std::max(largest, exponent_of(row[i]));
  return largest;
}

struct Packed {
  unsigned code;  // 4 bits: the sign and the upper three of the code
  std::uint8_t low;
};
// False: an outlier, for which zero is packed.
bool pack(bf16 x, int largest, Packed& out) {
  out = {(x.bits >> 15 & 1u) << 3, 0};
  if (is_zero(x)) return true;
  const int code = exponent_of(x) - largest + kLargestCode;
  if (!is_finite(x) || exponent_of(x) == 0 || code < kLeastCode) {
    out = {};
    return false;
  }
  out.code |= static_cast<unsigned>(code) >> 1;
  out.low = static_cast<std::uint8_t>((code & 1) << 7 | (x.bits & 0x7f));
  return true;
}

}  // namespace

PackedMatrix PackedMatrix::slice(std::int64_t first, std::int64_t count) const {
  if (!data) return {};
  PackedMatrix out = *this;
  out.rows = count;
  out.data = row(first);
  out.scale = scale + first;
  out.first_outlier = first_outlier + first;
  return out;
}

PackedWeights::PackedWeights(const ConstView& matrix)
    : rows_(matrix.rows()), width_(matrix.width()), first_outlier_{0} {
  constexpr std::int64_t kHalf = PackedMatrix::kBlock / 2;
  const PackedMatrix shape{.rows = rows_, .width = width_};
  data_ = Buffer(static_cast<std::size_t>(shape.bytes()));
  std::fill_n(data_.data(), data_.bytes(), std::byte{0});
  auto* to = reinterpret_cast<std::uint8_t*>(data_.data());
  for (std::int64_t r = 0; r < rows_; ++r, to += shape.blocks() * PackedMatrix::kBlockBytes) {
    const bf16* row = matrix.as<bf16>() + r * width_;
    const int largest = largest_exponent(row, width_);
    for (std::int64_t i = 0; i < width_; ++i) {
      Packed packed;
      if (!pack(row[i], largest, packed)) outliers_.push_back({static_cast<std::int32_t>(i), to_float(row[i])});
      const std::int64_t half = i % PackedMatrix::kBlock / kHalf, place = packed_place(i % kHalf);
      std::uint8_t* block = to + i / PackedMatrix::kBlock * PackedMatrix::kBlockBytes;
      block[half * kHalf + place] = packed.low;
      block[2 * kHalf + place] |= static_cast<std::uint8_t>(packed.code << 4 * half);
    }
    scale_.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(largest) << 23));
    first_outlier_.push_back(static_cast<std::int64_t>(outliers_.size()));
  }
}

PackedMatrix PackedWeights::view() const {
  return {.rows = rows_,
          .width = width_,
          .data = reinterpret_cast<const std::uint8_t*>(data_.data()),
          .scale = scale_.data(),
          .first_outlier = first_outlier_.data(),
          .outliers = outliers_.data()};
}

}  // namespace omni
