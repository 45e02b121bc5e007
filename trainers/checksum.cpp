#include "trainers/checksum.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <vector>

#include "engine/files.h"

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

constexpr std::size_t kBlock = 32;

// Four chains side by side, since each step of one waits for its last. A step is invertible in the chain and in the
// word.
class Chains {
 public:
  void add(std::span<const std::byte> blocks) {  // a multiple of kBlock
    for (std::size_t at = 0; at < blocks.size(); at += kBlock)
      for (std::size_t lane = 0; lane < 4; ++lane) lanes_[lane] = next(lane, &blocks[at]);
  }
  std::uint64_t finish(std::span<const std::byte> rest, std::size_t total) const {
    std::array<std::byte, kBlock> padded{};
    std::copy(rest.begin(), rest.end(), padded.begin());
    std::uint64_t sum = total;
    for (std::size_t lane = 0; lane < 4; ++lane) sum = mix(sum ^ next(lane, padded.data())) + kOdd;
    return sum;
  }

 private:
  std::uint64_t next(std::size_t lane, const std::byte* block) const {
    return std::rotl((lanes_[lane] ^ word_at(block + 8 * lane)) * kOdd, 29);
  }
  std::array<std::uint64_t, 4> lanes_ = {1, 2, 3, 4};
};

// Fills `piece` unless the file ends before.
std::size_t read_up_to(const FileDescriptor& file, std::span<std::byte> piece, const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < piece.size()) {
    const ssize_t got = ::read(file.get(), &piece[done], piece.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", path);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

}  // namespace

std::uint64_t checksum(std::span<const std::byte> bytes) {
  Chains chains;
  const std::size_t whole = bytes.size() / kBlock * kBlock;
  chains.add(bytes.first(whole));
  return chains.finish(bytes.subspan(whole), bytes.size());
}

// In pieces, so that a large file takes no memory.
std::uint64_t checksum_of_file(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  std::vector<std::byte> piece(std::size_t{1} << 20);
  static_assert((std::size_t{1} << 20) % kBlock == 0);
  Chains chains;
  std::size_t total = 0;
  for (;;) {
    const std::size_t got = read_up_to(file, piece, path);
    total += got;
    const std::size_t whole = got / kBlock * kBlock;
    chains.add(std::span(piece).first(whole));
    if (got < piece.size()) return chains.finish(std::span(piece).first(got).subspan(whole), total);
  }
}

std::string hex(std::uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

}  // namespace omni
