#pragma once
// What every CUDA launcher needs: the stream, the dtype, the grid, and the check afterwards.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/runtime.h"
#include "kernels/instruction.h"
#include "kernels/rounding.h"

namespace omni {

inline cudaStream_t stream_of(const CudaContext& cuda) { return static_cast<cudaStream_t>(cuda.stream); }

// Call after each <<<...>>>: reports a launch that the driver refused, by the instruction's name.
inline void check_launch(const char* instruction) { check_cuda(cudaGetLastError(), "launch", instruction); }

// Calls body.operator()<T>() with the C++ type of a dtype that CUDA kernels compute on: f32 and bf16.
template <class Body>
void dispatch_cuda(DType dtype, Body&& body) {
  if (dtype == DType::f32) return body.template operator()<float>();
  if (dtype == DType::bf16) return body.template operator()<bf16>();
  throw std::invalid_argument(std::string("no CUDA kernel computes on ") + name_of(dtype));
}

// Blocks that together have `per_block` places for each of `count` things. Kernels get at least one thing to do:
// launchers return before they would launch an empty grid.
constexpr unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>(ceil_div(count, per_block));
}

// Notes a value that an operand must not hold; the first one found wins. Threads may race here: each note is right.
__device__ inline void report_fault(CudaFault* fault, CudaFault::Kind kind, std::int64_t value, std::int64_t limit) {
  if (fault->kind != CudaFault::none) return;
  fault->value = value;
  fault->limit = limit;
  fault->kind = kind;
}

}  // namespace omni
