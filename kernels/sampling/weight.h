#pragma once
// Probabilities as whole numbers: their sums are the same in every order. constexpr, so that CPU and GPU have the same
// functions and draw the same tokens from the same random numbers, bit for bit.

#include <cstdint>

namespace omni {

// e^(logit - largest) in units of 2^-40, for logit <= largest. Off by less than one unit and one part in a million: the
// distance is rounded to a float, the rest is exact to 3e-8.
constexpr std::uint64_t sampling_weight(float logit, float largest) {
  constexpr std::uint32_t kOne = 1u << 31, kLog2OfE = 0xb8aa3b29, kLn2 = 0xb17217f8;  // in units of 2^-31, 2^-31, 2^-32
  if (logit == largest) return std::uint64_t{kOne} << 9;                              // infinite ones, too
  const float distance = largest - logit;
  if (!(distance < 28.5f)) return 0;  // e^-28.5 < 2^-41
  // distance = (halvings + rest) ln 2
  const auto fixed = static_cast<std::uint32_t>(distance * 0x1p27f);
  const std::uint64_t quotient = std::uint64_t{fixed} * kLog2OfE;  // in units of 2^-58
  const auto halvings = static_cast<std::uint32_t>(quotient >> 58), rest = static_cast<std::uint32_t>(quotient >> 26);
  const auto product = [](std::uint32_t a, std::uint32_t b) {  // in the units of a, with b in units of 2^-32
    return static_cast<std::uint32_t>(std::uint64_t{a} * b >> 32);
  };
  // e^-x = 1 - x (1 - x/2 (1 - x/3 ...)), the Taylor polynomial
  const std::uint32_t x = product(rest, kLn2);
  std::uint32_t power = kOne;
  for (std::uint32_t k = 10; k > 0; --k) power = kOne - product(power, x) / k;
  return (std::uint64_t{power} << 9) >> halvings;
}

// share * total, rounded down to a whole number below total.
constexpr std::uint64_t share_of(std::uint64_t total, double share) {
  const auto units = static_cast<std::uint64_t>(share * static_cast<double>(total));
  return units < total ? units : total - 1;
}

}  // namespace omni
