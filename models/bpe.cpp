#include "models/bpe.h"

#include <queue>

namespace omni {
namespace {

constexpr std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// A token of a piece, linked to its neighbours by their positions; -1 is no neighbour.
struct Symbol {
  std::int32_t id;
  std::int64_t previous, next;
};

// A possible merge of the symbol at `left` with its next. It is void once either of the two has changed.
struct Candidate {
  std::int32_t rank;
  std::int64_t left;
  std::int32_t left_id, right_id, result;

  bool operator<(const Candidate& other) const {  // the queue's top is the lowest rank, then the leftmost
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

bool PieceCache::find(std::string_view piece, std::vector<std::int32_t>& ids) const {
  const Shard& shard = shards_[PieceCache::shard(piece)];
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.pieces.find(piece);
  if (found == shard.pieces.end()) return false;
  ids.insert(ids.end(), found->second.begin(), found->second.end());
  return true;
}

void PieceCache::insert(std::string_view piece, std::span<const std::int32_t> ids) {
  Shard& shard = shards_[PieceCache::shard(piece)];
  const std::lock_guard lock(shard.mutex);
  if (shard.pieces.size() >= kPiecesPerShard) shard.pieces.clear();
  shard.pieces.emplace(piece, std::vector<std::int32_t>(ids.begin(), ids.end()));
}

Bpe::Bpe(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges)
    : byte_ids_(byte_ids), cache_(std::make_unique<PieceCache>()) {
  rules_.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i)
    rules_[pair_key(merges[i].left, merges[i].right)] = {static_cast<std::int32_t>(i), merges[i].result};
}

const Bpe::Rule* Bpe::find(std::int32_t left, std::int32_t right) const {
  const auto found = rules_.find(pair_key(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (piece.empty()) return;
  if (piece.size() == 1) {
    ids.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  const bool cached = piece.size() <= PieceCache::kLongestPiece;
  if (cached && cache_->find(piece, ids)) return;
  const std::size_t first = ids.size();
  merge(piece, ids);
  if (cached) cache_->insert(piece, std::span(ids).subspan(first));
}

void Bpe::merge(std::string_view piece, std::vector<std::int32_t>& ids) const {
  const auto count = static_cast<std::int64_t>(piece.size());
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (std::int64_t i = 0; i < count; ++i) {
    const auto byte = static_cast<unsigned char>(piece[static_cast<std::size_t>(i)]);
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto at = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int64_t left) {
    if (left < 0 || at(left).next < 0) return;
    const std::int32_t left_id = at(left).id, right_id = at(at(left).next).id;
    if (const Rule* rule = find(left_id, right_id)) queue.push({rule->rank, left, left_id, right_id, rule->result});
  };
  for (std::int64_t i = 0; i < count; ++i) consider(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.left);
    if (left.id != best.left_id || left.next < 0 || at(left.next).id != best.right_id) continue;
    Symbol& right = at(left.next);
    left.id = best.result;
    left.next = right.next;
    right.id = -1;  // no candidate that names this position holds any more
    if (left.next >= 0) at(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (std::int64_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace omni
