#pragma once
// The number formats, and the conversions that every kernel uses: to_float() widens, round_to<T>() rounds to nearest
// even.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace omni {

enum class DType : std::uint8_t { f32, bf16, f16, f64, i64, i32, u8, i8 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
    case DType::i8:
      return 1;
  }
  return 0;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f64:
      return "f64";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::u8:
      return "u8";
    case DType::i8:
      return "i8";
  }
  return "?";
}

// The format of weights by the name that options of programs give it: f32, bf16, f16 or int8. Throws
// std::invalid_argument.
inline DType dtype_named(const std::string& name) {
  if (name == "int8") return DType::i8;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    if (name == name_of(dtype)) return dtype;
  throw std::invalid_argument("dtype: expected f32, bf16, f16 or int8, found " + name);
}

// The upper half of an IEEE float: 8 bits of exponent, 7 of mantissa.
struct bf16 {
  std::uint16_t bits;
};

// IEEE half precision: 5 bits of exponent, 10 of mantissa. Only in files; no kernel computes with it.
struct f16 {
  std::uint16_t bits;
};

inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }
inline float to_float(std::int8_t x) { return x; }
inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

inline float to_float(f16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Multiplying by 2^112 moves the exponent's bias from 15 to 127, and normalises subnormal halves on the way.
  const float shifted = std::bit_cast<float>(magnitude << 13) * std::bit_cast<float>(0x77800000u);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(shifted));
}

// Rounds to nearest, ties to even. A NaN stays one; what is too large becomes infinite.
template <class T, class F>
T round_to(F x) {
  if constexpr (std::is_same_v<T, bf16>) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
    const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<std::uint16_t>(is_nan ? (bits >> 16 | 0x40u) : rounded)};
  } else if constexpr (std::is_same_v<T, f16>) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
    const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds past 65504
    if (magnitude < 0x38800000u) {
      // Subnormal half: adding 0.5 aligns the mantissa so that the hardware rounds at the right bit.
      const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
      return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u))};
    }
    const std::uint32_t rebased = magnitude - 0x38000000u;
    return {static_cast<std::uint16_t>(sign | (rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13)};
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, f16>) return DType::f16;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::i8;
}

// The type that a kernel computes in: double for double, float for all else.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The same of a dtype: f64 for f64, f32 for all else. Vector parameters and statistics have it.
constexpr DType wide_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Calls body.operator()<T>() with the C++ type of a dtype that kernels compute on: f32, bf16, f64.
template <class Body>
void dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32:
      return body.template operator()<float>();
    case DType::bf16:
      return body.template operator()<bf16>();
    case DType::f64:
      return body.template operator()<double>();
    default:
      throw std::invalid_argument(std::string("no kernel computes on ") + name_of(dtype));
  }
}

}  // namespace omni
