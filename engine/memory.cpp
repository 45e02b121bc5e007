#include "engine/memory.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "kernels/cuda/runtime.h"
#include "kernels/rounding.h"

namespace omni {
namespace {

constexpr std::size_t kLine = 64;

std::size_t whole_lines(std::size_t bytes) { return round_up(std::max<std::size_t>(bytes, 1), kLine); }

std::size_t total_bytes(const std::vector<Buffer>& chunks) {
  std::size_t sum = 0;
  for (const Buffer& chunk : chunks) sum += chunk.bytes();
  return sum;
}

}  // namespace

OwnedTensor::OwnedTensor(DType dtype, const Shape& shape, Place place)
    : buffer_(static_cast<std::size_t>(shape.count()) * size_of(dtype), memory_of(place)),
      view_{{buffer_.data(), dtype, shape, place}} {
  if constexpr (kHasCuda) {
    if (place == Place::cuda) {
      cuda_zero(buffer_.data(), buffer_.bytes());
      return;
    }
  }
  std::memset(buffer_.data(), 0, buffer_.bytes());
}

OwnedTensor copy_of(const ConstView& view) {
  if (!view) return {};
  OwnedTensor out(view.dtype, view.shape);
  if (view.bytes() > 0) std::memcpy(out.view().data, view.data, static_cast<std::size_t>(view.bytes()));
  return out;
}

void* Arena::take(std::size_t bytes) {
  const std::size_t need = whole_lines(bytes);
  while (chunk_ < chunks_.size() && offset_ + need > chunks_[chunk_].bytes()) {
    ++chunk_;
    offset_ = 0;
  }
  if (chunk_ == chunks_.size()) chunks_.emplace_back(std::max(need, chunk_bytes_), kind_);
  void* block = chunks_[chunk_].data() + offset_;
  offset_ += need;
  used_ += need;
  return block;
}

void Arena::reset() { chunk_ = offset_ = used_ = 0; }

std::size_t Arena::reserved() const { return total_bytes(chunks_); }

void LentMemory::lend(std::byte* data, std::size_t bytes) {
  if (!pieces_.empty() && pieces_.back().data + pieces_.back().bytes == data)
    pieces_.back().bytes += bytes;
  else
    pieces_.push_back({data, bytes});
}

void* LentMemory::take(std::size_t bytes) {
  const std::size_t need = whole_lines(bytes);
  const auto piece = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.bytes >= need; });
  if (piece == pieces_.end()) return nullptr;
  std::byte* block = piece->data;
  piece->data += need;
  piece->bytes -= need;
  return block;
}

void* Pool::take(std::size_t bytes) {
  const std::size_t need = whole_lines(bytes);
  auto piece = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.free && p.bytes >= need; });
  if (piece == pieces_.end()) {
    const Buffer& chunk = chunks_.emplace_back(std::max(need, chunk_bytes_), kind_);
    piece = pieces_.insert(pieces_.end(), {chunk.data(), chunk.bytes(), true, true});
  }
  if (const std::size_t rest = piece->bytes - need; rest > 0)
    piece = std::prev(pieces_.insert(std::next(piece), {piece->data + need, rest, true, false}));
  piece->bytes = need;
  piece->free = false;
  return piece->data;
}

void Pool::give_back(void* block) {
  const auto piece = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) { return p.data == block; });
  if (piece == pieces_.end() || piece->free) throw std::invalid_argument("Pool::give_back: not a block that it gave");
  piece->free = true;
  join_with_next(piece);
  if (piece != pieces_.begin()) join_with_next(std::prev(piece));
}

// Where both are free and of one chunk.
void Pool::join_with_next(Pieces::iterator piece) {
  const auto next = std::next(piece);
  if (next == pieces_.end() || !piece->free || !next->free || next->begins_chunk) return;
  piece->bytes += next->bytes;
  pieces_.erase(next);
}

std::size_t Pool::reserved() const { return total_bytes(chunks_); }

}  // namespace omni
