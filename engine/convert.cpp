#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "engine/weights.h"
#include "kernels/rounding.h"

namespace omni {
namespace {

[[maybe_unused]] constexpr std::int64_t kParallelFrom = 1
                                                        << 16;  // below, starting the threads costs more than the copy

// The float next to `x` towards zero, with its last bit set if that is inexact ("rounding to odd"): rounding it once
// more, to 16 bits, then gives the same as rounding `x` directly.
float to_odd_float(double x) {
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || !std::isfinite(nearest)) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(x)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

template <class To, class From>
void convert(const From* from, To* to, std::int64_t count) {  // both [count]
#pragma omp parallel for schedule(static) if (count >= kParallelFrom)
  for (std::int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<From, double> && sizeof(To) == 2)
      to[i] = round_to<To>(to_odd_float(from[i]));
    else
      to[i] = round_to<To>(to_float(from[i]));
  }
}

// Calls body with a null pointer of the C++ type, for the four floating-point formats.
template <class Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::f16)
    body(static_cast<f16*>(nullptr));
  else
    dispatch(dtype, [&]<class T>() { body(static_cast<T*>(nullptr)); });
}

bool is_floating_point(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

void copy_bytes(const std::byte* from, std::byte* to, std::int64_t bytes) {
  constexpr std::int64_t kBlock = std::int64_t{1} << 20;
  const std::int64_t blocks = ceil_div(bytes, kBlock);
#pragma omp parallel for schedule(static) if (blocks > 1)
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t begin = block * kBlock;
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(std::min(kBlock, bytes - begin)));
  }
}

}  // namespace

void copy_converted(const ConstView& from, const View& to) {
  const bool same = from.dtype == to.dtype;
  if (!(from.shape == to.shape) || (!same && (!is_floating_point(from.dtype) || !is_floating_point(to.dtype))))
    throw std::runtime_error("cannot copy " + std::string(name_of(from.dtype)) + " " + from.shape.text() + " to " +
                             name_of(to.dtype) + " " + to.shape.text());
  if (from.count() == 0) return;
  if (!from || !to) throw std::runtime_error("cannot copy " + from.shape.text() + " from or to a view without data");
  if (same) {
    copy_bytes(static_cast<const std::byte*>(from.data), static_cast<std::byte*>(to.data), from.bytes());
    return;
  }
  with_type(from.dtype, [&]<class From>(From*) {
    with_type(to.dtype, [&]<class To>(To*) { convert(from.as<From>(), to.as<To>(), from.count()); });
  });
}

}  // namespace omni
