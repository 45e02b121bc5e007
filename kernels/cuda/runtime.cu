#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "kernels/cuda/runtime.h"

namespace omni {

void check_cuda(int error, const char* call, const char* op) {
  if (error == cudaSuccess) return;
  const auto code = static_cast<cudaError_t>(error);
  throw std::runtime_error(std::string("cuda: ") + call + (op ? std::string(" (") + op + ")" : "") + ": " +
                           cudaGetErrorName(code) + ": " + cudaGetErrorString(code));
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::byte* cuda_allocate(std::size_t bytes, MemoryKind kind) {
  void* pointer = nullptr;
  const std::string size = std::to_string(bytes) + " bytes";
  if (kind == MemoryKind::cuda) check_cuda(cudaMalloc(&pointer, bytes), "cudaMalloc", size.c_str());
  if (kind == MemoryKind::pinned) check_cuda(cudaMallocHost(&pointer, bytes), "cudaMallocHost", size.c_str());
  if (kind == MemoryKind::managed) check_cuda(cudaMallocManaged(&pointer, bytes), "cudaMallocManaged", size.c_str());
  return static_cast<std::byte*>(pointer);
}

// Called by destructors: an error here has been, or will be, reported by the call that caused it.
void cuda_free(std::byte* pointer, MemoryKind kind) {
  if (kind == MemoryKind::pinned)
    cudaFreeHost(pointer);
  else
    cudaFree(pointer);
}

void cuda_zero(std::byte* pointer, std::size_t bytes) {
  check_cuda(cudaMemset(pointer, 0, bytes), "cudaMemset");
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

}  // namespace omni
