#include "engine/memory.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/runtime.h"

namespace omni {
namespace {

constexpr std::size_t kLine = 64;

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

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
  const std::size_t need = round_up(std::max<std::size_t>(bytes, 1), kLine);
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

std::size_t Arena::reserved() const {
  std::size_t sum = 0;
  for (const Buffer& chunk : chunks_) sum += chunk.bytes();
  return sum;
}

void* Pool::take(std::size_t bytes) {
  const std::size_t need = round_up(std::max<std::size_t>(bytes, 1), kLine);
  // A block up to twice as large serves as well; beyond that, waste would add up.
  const auto found = free_.lower_bound(need);
  if (found != free_.end() && found->first <= 2 * need) {
    void* block = found->second;
    free_.erase(found);
    return block;
  }
  void* block = arena_.take(need);
  sizes_.emplace(block, need);
  return block;
}

void Pool::give_back(void* block) { free_.emplace(sizes_.at(block), block); }

}  // namespace omni
