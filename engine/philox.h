#pragma once
// Philox-4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC
// 2011). A number depends on its key and its position alone, so a resumed run or another thread count draws the same
// ones.

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace omni {

// What a stream of random numbers is for. Together with the seed it forms the key, so that uses never share numbers.
enum class RandomStream : std::uint32_t { initialization, data_order, augmentation, sampling, test };

// One block of the cipher: 128 random bits from a 128-bit counter and a 64-bit key.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t low = std::uint64_t{0xd2511f53} * counter[0], high = std::uint64_t{0xcd9e8d57} * counter[2];
    counter = {static_cast<std::uint32_t>(high >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(high),
               static_cast<std::uint32_t>(low >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(low)};
    key = {key[0] + 0x9e3779b9, key[1] + 0xbb67ae85};
  }
  return counter;
}

// A sequence of random numbers for (seed, stream, step): two generators with equal arguments give equal sequences.
class Philox {
 public:
  Philox(std::uint64_t seed, RandomStream stream, std::uint64_t step = 0)
      : key_{static_cast<std::uint32_t>(seed),
             static_cast<std::uint32_t>(seed >> 32) ^ static_cast<std::uint32_t>(stream)},
        step_(step) {}

  std::uint32_t next() {  // 32 random bits
    if (used_ == 4) {
      block_ = philox4x32({static_cast<std::uint32_t>(index_), static_cast<std::uint32_t>(index_ >> 32),
                           static_cast<std::uint32_t>(step_), static_cast<std::uint32_t>(step_ >> 32)},
                          key_);
      ++index_;
      used_ = 0;
    }
    return block_[static_cast<std::size_t>(used_++)];
  }

  // Uniform in [0, 1), a multiple of 2^-53.
  double uniform() {
    const std::uint64_t high = next() >> 5, low = next() >> 6;
    return static_cast<double>(high << 26 | low) * 0x1p-53;
  }

  // Uniform in 0 .. count - 1 without bias (count > 0): draws from the incomplete last interval are thrown away.
  std::uint64_t below(std::uint64_t count) {
    const std::uint64_t limit = UINT64_MAX - UINT64_MAX % count;
    for (;;) {
      const std::uint64_t high = next(), draw = high << 32 | next();
      if (draw < limit) return draw % count;
    }
  }

  // Standard normal (Box and Muller 1958).
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t step_, index_ = 0;
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
};

}  // namespace omni
