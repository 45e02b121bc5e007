#pragma once
// What the CPU side of the engine needs from the CUDA runtime: memory, and errors as exceptions. Free of CUDA's
// headers.

#include <cstddef>

#include "kernels/buffer.h"

namespace omni {

#ifdef OMNI_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

// Throws std::runtime_error "cuda: CALL (OP): cudaErrorName: text" unless `error`, a cudaError_t, is success.
void check_cuda(int error, const char* call, const char* op = nullptr);

// GPUs that this process can use; 0 in a build without CUDA kernels, or without a driver.
#ifdef OMNI_HAS_CUDA
int cuda_device_count();
#else
inline int cuda_device_count() { return 0; }
#endif

std::byte* cuda_allocate(std::size_t bytes, MemoryKind kind);
void cuda_free(std::byte* pointer, MemoryKind kind);
// Zeroes GPU memory and waits until that is done.
void cuda_zero(std::byte* pointer, std::size_t bytes);

}  // namespace omni
