#include "trainers/checksum.h"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>

#include "engine/mapped_file.h"

namespace omni {
namespace {

constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio; odd, so multiplication loses nothing

// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit, and it is
// invertible.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

std::uint64_t word_at(const std::byte* bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) {
  // Four chains side by side, since each step of one waits for its last. A step is invertible in the chain and in the
  // word.
  std::array<std::uint64_t, 4> lanes = {1, 2, 3, 4};
  std::size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32)
    for (std::size_t lane = 0; lane < 4; ++lane)
      lanes[lane] = std::rotl((lanes[lane] ^ word_at(&bytes[at + 8 * lane])) * kOdd, 29);
  std::array<std::byte, 32> rest{};
  if (at < bytes.size()) std::memcpy(rest.data(), &bytes[at], bytes.size() - at);
  std::uint64_t sum = bytes.size();
  for (std::size_t lane = 0; lane < 4; ++lane)
    sum = mix(sum ^ std::rotl((lanes[lane] ^ word_at(&rest[8 * lane])) * kOdd, 29)) + kOdd;
  return sum;
}

std::uint64_t checksum_of_file(const std::filesystem::path& path) { return checksum(MappedFile(path).bytes()); }

std::string hex(std::uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

}  // namespace omni
