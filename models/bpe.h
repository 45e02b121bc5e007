#pragma once
// The second half of byte-level BPE: merging the bytes of a piece into tokens (Sennrich et al., arXiv 1508.07909).

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace omni {

struct Merge {
  std::int32_t left, right, result;  // token ids
};

// Thread-safe store of the tokens of pieces seen before. Bounded: a full shard starts again from empty.
class PieceCache {
 public:
  static constexpr std::size_t kLongestPiece = 64;  // bytes

  // Appends the tokens of `piece` to `ids` and returns true if they are known.
  bool find(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void insert(std::string_view piece, std::span<const std::int32_t> ids);

 private:
  static constexpr std::size_t kShards = 32, kPiecesPerShard = 2048;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Shard {
    mutable std::mutex mutex;
    std::unordered_map<std::string, std::vector<std::int32_t>, Hash, std::equal_to<>> pieces;
  };
  static std::size_t shard(std::string_view piece) { return Hash()(piece) % kShards; }

  std::array<Shard, kShards> shards_;
};

class Bpe {
 public:
  // `byte_ids` holds the token of each single byte. The rank of a merge is its index; of equal pairs the last counts.
  Bpe(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges);

  // Appends the tokens of `piece`: starting from its bytes, the neighbours with the lowest rank, the leftmost of
  // equals, become one token until no pair is in the list. Time O(n log n). Concurrent use is safe.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct Rule {
    std::int32_t rank, result;
  };
  struct HashPair {
    std::size_t operator()(std::uint64_t pair) const { return (pair * 0x9e3779b97f4a7c15) >> 20; }
  };
  const Rule* find(std::int32_t left, std::int32_t right) const;
  void merge(std::string_view piece, std::vector<std::int32_t>& ids) const;

  std::array<std::int32_t, 256> byte_ids_;
  std::unordered_map<std::uint64_t, Rule, HashPair> rules_;
  std::unique_ptr<PieceCache> cache_;
};

}  // namespace omni
