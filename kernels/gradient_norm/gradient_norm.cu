#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/gradient_norm/gradient_norm.h"

namespace omni {
namespace {

constexpr int kBlock = 256, kSize = kPackSize<float>, kPacks = 16;  // packs of a thread
constexpr int kChunk = kBlock * kPacks * kSize;
constexpr int kWideBlock = 1024;

// GPUs have few f64 units, so the squares of a pack are added in f32, unless they are so large or small that they could
// leave its range.
__device__ double sum_of_squares(const Pack<float, kSize>& x) {
  constexpr float kLeast = 1e-30f, kMost = 1e30f;
  const float a = x.lane[0], b = x.lane[1], c = x.lane[2], d = x.lane[3];
  const float sum = (a * a + b * b) + (c * c + d * d);
  const bool is_zero = a == 0 && b == 0 && c == 0 && d == 0;
  if ((sum > kLeast && sum < kMost) || is_zero) return static_cast<double>(sum);
  const double wide[] = {a, b, c, d};
  return (wide[0] * wide[0] + wide[1] * wide[1]) + (wide[2] * wide[2] + wide[3] * wide[3]);
}

// A block owns kChunk values, a thread every 256th pack of 16 bytes. 64 bytes of shared memory. Must move the gradient.
__global__ void __launch_bounds__(kBlock) sum_chunks_kernel(double* __restrict__ sums,           // [gridDim.x]
                                                            const float* __restrict__ gradient,  // [count]
                                                            std::int64_t count) {
  __shared__ double shared[kBlock / kWarp];
  const float* chunk = gradient + std::int64_t{blockIdx.x} * kChunk;
  const std::int64_t left = count - std::int64_t{blockIdx.x} * kChunk;
  double sum = 0;
#pragma unroll 4
  for (int k = 0; k < kPacks; ++k) {
    const int first = (k * kBlock + static_cast<int>(threadIdx.x)) * kSize;
    Pack<float, kSize> x = {};
    if (first + kSize <= left) {
      x = load_pack<kSize>(chunk + first);
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i)
        if (first + i < left) x.lane[i] = chunk[first + i];
    }
    sum += sum_of_squares(x);
  }
  sum = block_sum<kBlock>(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block adds up the chunks, in an order that depends on their number alone. 256 bytes of shared memory. Must move
// the sums.
__global__ void __launch_bounds__(kWideBlock) finish_norm_kernel(float* norm, float* scale,        // [1]
                                                                 const double* __restrict__ sums,  // [chunks]
                                                                 std::int64_t chunks, double max_norm) {
  __shared__ double shared[kWideBlock / kWarp];
  double sum = 0;
  for (std::int64_t chunk = threadIdx.x; chunk < chunks; chunk += kWideBlock) sum += sums[chunk];
  sum = block_sum<kWideBlock>(sum, shared);
  if (threadIdx.x != 0) return;
  const double exact = sqrt(sum), factor = max_norm / (exact + 1e-6);
  const float rounded = static_cast<float>(exact);
  *norm = rounded;
  *scale = !isfinite(rounded) ? nanf("") : max_norm <= 0 || factor >= 1 ? 1.f : static_cast<float>(factor);
}

}  // namespace

void run(const CudaContext& cuda, const GradientNorm& op) {
  const std::int64_t count = op.gradient.count(), chunks = ceil_div(count, kChunk);
  auto* sums = reinterpret_cast<double*>(cuda.workspace->get(static_cast<std::size_t>(chunks) * sizeof(double)));
  if (chunks > 0) {
    sum_chunks_kernel<<<static_cast<unsigned>(chunks), kBlock, 0, stream_of(cuda)>>>(sums, op.gradient.as<float>(),
                                                                                     count);
    check_launch(GradientNorm::name);
  }
  finish_norm_kernel<<<1, kWideBlock, 0, stream_of(cuda)>>>(op.norm.as<float>(), op.scale.as<float>(), sums, chunks,
                                                            op.max_norm);
  check_launch(GradientNorm::name);
}

}  // namespace omni
