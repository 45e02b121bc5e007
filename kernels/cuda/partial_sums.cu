#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"

namespace omni {
namespace {

constexpr int kSlices = 32;  // of the parts

// A block of 32 x 32 threads owns 32 columns of target blockIdx.y; a row of threads adds every 32nd part, then the
// first row of threads adds those sums. 4 KB of shared memory. Must move the partials once.
__global__ void __launch_bounds__(kWarp* kSlices)
    add_partials_kernel(SumTarget first, SumTarget second,
                        const float* __restrict__ partials,  // [parts, gridDim.y, width]
                        std::int64_t parts, std::int64_t width) {
  __shared__ float sums[kSlices][kWarp];
  const SumTarget target = blockIdx.y == 0 ? first : second;
  const std::int64_t column = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  if (target.sum == nullptr) return;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (std::int64_t part = threadIdx.y; part < parts; part += kSlices)
      sum += partials[(part * gridDim.y + blockIdx.y) * width + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  sum = 0;
#pragma unroll
  for (int slice = 0; slice < kSlices; ++slice) sum += sums[slice][threadIdx.x];
  target.sum[column] = target.accumulate ? target.sum[column] + sum : sum;
}

void launch(const CudaContext& cuda, const char* instruction, const float* partials, std::int64_t parts,
            std::int64_t width, const SumTarget& first, const SumTarget& second, unsigned targets) {
  if (width == 0) return;
  add_partials_kernel<<<dim3(blocks_for(width, kWarp), targets), dim3(kWarp, kSlices), 0, stream_of(cuda)>>>(
      first, second, partials, parts, width);
  check_launch(instruction);
}

}  // namespace

void add_partials(const CudaContext& cuda, const char* instruction, const float* partials, std::int64_t parts,
                  std::int64_t width, const SumTarget& target) {
  launch(cuda, instruction, partials, parts, width, target, {}, 1);
}

void add_partials(const CudaContext& cuda, const char* instruction, const float* partials, std::int64_t parts,
                  std::int64_t width, const SumTarget& first, const SumTarget& second) {
  launch(cuda, instruction, partials, parts, width, first, second, 2);
}

}  // namespace omni
