#pragma once
// Memory of a training step: a bump arena for activations, a pool for their gradients, and buffers that live longer.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/view.h"

namespace omni {

// A tensor that owns its memory: parameters, caches, batches. Zero-filled.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, const Shape& shape, Place place = Place::host);
  View view() const { return view_; }
  operator View() const { return view_; }       // NOLINT: used wherever a view is
  operator ConstView() const { return view_; }  // NOLINT
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  Buffer buffer_;
  View view_;
};

// A copy of a view of host memory; of an absent one, nothing.
OwnedTensor copy_of(const ConstView& view);

// Bump allocator. reset() makes all of it free at once and keeps the memory, so a step that repeats the requests of the
// step before allocates nothing.
class Arena {
 public:
  explicit Arena(Place place = Place::host, std::size_t chunk_bytes = std::size_t{64} << 20)
      : kind_(memory_of(place)), chunk_bytes_(chunk_bytes) {}

  void* take(std::size_t bytes);  // 64-byte aligned, undefined content
  void reset();
  std::size_t used() const { return used_; }                    // since the last reset
  std::size_t reserved() const;                                 // owned by the arena
  std::uint64_t allocations() const { return chunks_.size(); }  // system allocations so far

 private:
  MemoryKind kind_;
  std::size_t chunk_bytes_;
  std::vector<Buffer> chunks_;
  std::size_t chunk_ = 0, offset_ = 0, used_ = 0;
};

// Memory of others that is free for a while: taken in pieces, and forgotten as a whole.
class LentMemory {
 public:
  void lend(std::byte* data, std::size_t bytes);  // 64-byte aligned; joins what was lent before if that ends here
  void* take(std::size_t bytes);  // as Arena::take, from the first piece that is large enough; or nullptr
  void reset() { pieces_.clear(); }

 private:
  struct Piece {
    std::byte* data;
    std::size_t bytes;
  };
  std::vector<Piece> pieces_;
};

// Memory in any order of taking and giving back: gradients of activations live from their first consumer's backward to
// their producer's. A block is cut from the first free piece that is large enough, so that what is in use stays
// together at the front, and joins its free neighbours again when it comes back.
class Pool {
 public:
  explicit Pool(Place place = Place::host, std::size_t chunk_bytes = std::size_t{64} << 20)
      : kind_(memory_of(place)), chunk_bytes_(chunk_bytes) {}

  void* take(std::size_t bytes);  // 64-byte aligned, undefined content
  void give_back(void* block);    // a block that take() returned, once; else std::invalid_argument
  std::size_t reserved() const;   // owned by the pool
  std::uint64_t allocations() const { return chunks_.size(); }  // system allocations so far

 private:
  struct Piece {
    std::byte* data;
    std::size_t bytes;
    bool free, begins_chunk;
  };
  using Pieces = std::vector<Piece>;  // all memory, chunk after chunk

  void join_with_next(Pieces::iterator piece);

  MemoryKind kind_;
  std::size_t chunk_bytes_;
  std::vector<Buffer> chunks_;
  Pieces pieces_;
};

}  // namespace omni
