#pragma once
// What the CPU loops share: functions that GCC vectorises inside `omp simd` loops, and the split of a loop among
// threads.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/instruction.h"

namespace omni {

// e^x within 2 units in the last place, without branches: 0 for -infinity, infinity above 88.73, NaN for NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial; 2^n in two factors, so that subnormal results and
// 2^128 need no special case (Cody and Waite, "Software manual for the elementary functions", 1980).
inline float fast_exp(float x) {
  constexpr float kRounder = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x > 90.f ? 90.f : x;
  x = x < -105.f ? -105.f : x;
  const float shifted = x * 1.44269504f + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  const std::int32_t exponent = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u);
  const std::int32_t half = exponent >> 1;
  const auto power = [](std::int32_t e) { return std::bit_cast<float>((static_cast<std::uint32_t>(e) + 127u) << 23); };
  return p * power(half) * power(exponent - half);
}
inline double fast_exp(double x) { return std::exp(x); }

template <class F>
F sigmoid(F x) {
  return 1 / (1 + fast_exp(-x));
}

// erf with an absolute error below 5e-7 (Abramowitz and Stegun 7.1.26); that of the standard library in double.
inline float fast_erf(float x) {
  const float a = std::fabs(x);
  const float t = 1 / (1 + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return std::copysign(1 - p * t * fast_exp(-a * a), x);
}
inline double fast_erf(double x) { return std::erf(x); }

// The largest of `count` values; -infinity for none. NaN may be skipped.
template <class T>
Wide<T> maximum(const T* x, std::int64_t count) {
  constexpr int kLanes = 32;
  Wide<T> lane[kLanes];
  std::fill_n(lane, kLanes, -std::numeric_limits<Wide<T>>::infinity());
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) {
      const auto value = to_float(x[i + j]);
      lane[j] = value > lane[j] ? value : lane[j];
    }
  }
  for (; i < count; ++i) lane[0] = std::max(lane[0], to_float(x[i]));
  return *std::max_element(lane, lane + kLanes);
}

// Into how many parts a loop over `count` items is split, when an item takes `cost` elementary steps: at most one part
// per thread, and none so small that waking a thread costs more than its work. Depends on these numbers alone.
inline int parts_for(const CpuContext& cpu, std::int64_t count, std::int64_t cost) {
  constexpr std::int64_t kLeast = 16384;
  const std::int64_t most = std::max<std::int64_t>(1, std::min<std::int64_t>(cpu.threads, count));
  return static_cast<int>(std::clamp<std::int64_t>(count * std::max<std::int64_t>(cost, 1) / kLeast, 1, most));
}

// Calls body(part, begin, end) for each part of 0 .. count - 1, in parallel.
template <class Body>
void parallel_parts(int parts, std::int64_t count, const Body& body) {
  if (parts == 1) return body(0, std::int64_t{0}, count);
#pragma omp parallel for schedule(static, 1) num_threads(parts)
  for (int part = 0; part < parts; ++part) body(part, count * part / parts, count * (part + 1) / parts);
}

// Calls body(begin, end) on ranges that cover 0 .. count - 1, in parallel.
template <class Body>
void parallel_ranges(const CpuContext& cpu, std::int64_t count, std::int64_t cost, const Body& body) {
  parallel_parts(parts_for(cpu, count, cost), count,
                 [&](int, std::int64_t begin, std::int64_t end) { body(begin, end); });
}

// out[i] = sum over parts of partial[part][i], added in the order of the parts, plus the old out[i] if accumulate.
template <class W>
void add_parts(W* out, const CpuContext::Scratch<W>& partial, int parts, std::int64_t width, bool accumulate) {
  if (!accumulate) std::fill_n(out, width, W{0});
  for (int part = 0; part < parts; ++part) {
    const W* addend = partial.part(part);
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) out[i] += addend[i];
  }
}

}  // namespace omni
