#pragma once
// A block of memory with one owner.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/view.h"

namespace omni {

// Where a Buffer lies. Pinned memory is host memory that a GPU copies from and to without help of the CPU.
enum class MemoryKind { host, pinned, cuda, managed };

constexpr MemoryKind memory_of(Place place) {
  return place == Place::host ? MemoryKind::host : place == Place::cuda ? MemoryKind::cuda : MemoryKind::managed;
}

// Host memory is 64-byte aligned (2 MiB where large, backed by huge pages where the system has them), CUDA's 256-byte.
class Buffer {
 public:
  Buffer() = default;
  // Undefined content. Throws std::bad_alloc with no memory left, std::runtime_error for what CUDA cannot give.
  explicit Buffer(std::size_t bytes, MemoryKind kind = MemoryKind::host);

  std::byte* data() const { return memory_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    MemoryKind kind;
    Free() : kind(MemoryKind::host) {}
    explicit Free(MemoryKind kind_of_memory) : kind(kind_of_memory) {}
    void operator()(std::byte* pointer) const;
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t bytes_ = 0;
};

// Scratch memory of a context: grows to the largest request and is then reused, so that a warm step allocates nothing.
class Workspace {
 public:
  explicit Workspace(MemoryKind kind = MemoryKind::host) : kind_(kind) {}

  // Memory of at least `bytes` bytes, aligned as a Buffer, undefined content, valid until the next call.
  std::byte* get(std::size_t bytes) {
    if (bytes > buffer_.bytes()) {
      buffer_ = {};
      buffer_ = Buffer(bytes, kind_);
      ++generation_;
    }
    return buffer_.data();
  }
  // Changes whenever the memory moves.
  std::uint64_t generation() const { return generation_; }

 private:
  MemoryKind kind_;
  Buffer buffer_;
  std::uint64_t generation_ = 0;
};

}  // namespace omni
