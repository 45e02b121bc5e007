#include "kernels/buffer.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "kernels/cuda/runtime.h"
#include "kernels/rounding.h"

namespace omni {
namespace {

constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;

// glibc puts blocks of up to 32 MiB into its heap once some of their size were freed, and there they leave holes which
// stay resident. With a fixed threshold, for the whole process, large blocks come from the system and go back to it.
void keep_large_blocks_out_of_the_heap() {
#ifdef M_MMAP_THRESHOLD
  [[maybe_unused]] static const int done = mallopt(M_MMAP_THRESHOLD, kHugePage);
#endif
}

std::byte* allocate_host(std::size_t bytes) {
  const bool large = bytes >= kHugePage;
  const std::size_t alignment = large ? kHugePage : kLine;
  const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), alignment);
  if (large) keep_large_blocks_out_of_the_heap();
  void* pointer = std::aligned_alloc(alignment, rounded);
  if (pointer == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (large) madvise(pointer, rounded, MADV_HUGEPAGE);  // a hint: its failure changes nothing
#endif
  return static_cast<std::byte*>(pointer);
}

std::byte* allocate(std::size_t bytes, MemoryKind kind) {
  if (kind == MemoryKind::host) return allocate_host(bytes);
  if constexpr (kHasCuda) return cuda_allocate(std::max<std::size_t>(bytes, 1), kind);
  throw std::runtime_error("this build has no CUDA half, so it has no GPU memory");
}

}  // namespace

Buffer::Buffer(std::size_t bytes, MemoryKind kind) : memory_(allocate(bytes, kind), Free{kind}), bytes_(bytes) {}

void Buffer::Free::operator()(std::byte* pointer) const {
  if (kind == MemoryKind::host) {
    std::free(pointer);
  } else if constexpr (kHasCuda) {
    cuda_free(pointer, kind);
  }
}

}  // namespace omni
