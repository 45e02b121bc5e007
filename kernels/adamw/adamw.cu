#include "kernels/adamw/adamw.h"
#include "kernels/adamw/constants.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"

namespace omni {
namespace {

constexpr int kBlock = 256, kSize = kPackSize<float>;

// Pointers to n values, n as in adamw.h.
struct Operands {
  float *parameter, *moment1, *moment2;
  bf16* copy;  // or null
  const float* gradient;
};

// The step for values first .. first + Size - 1.
template <int Size>
__device__ void update(const Operands& at, std::int64_t first, float gradient_scale, const AdamWConstants& k) {
  const Pack<float, Size> g = load_pack<Size>(at.gradient + first), p = load_pack<Size>(at.parameter + first),
                          m = load_pack<Size>(at.moment1 + first), v = load_pack<Size>(at.moment2 + first);
  Pack<float, Size> new_p, new_m, new_v;
  Pack<bf16, Size> copy;
#pragma unroll
  for (int i = 0; i < Size; ++i) {
    const float x = g.lane[i] * gradient_scale;
    new_m.lane[i] = k.beta1 * m.lane[i] + k.one_minus_beta1 * x;
    new_v.lane[i] = k.beta2 * v.lane[i] + k.one_minus_beta2 * x * x;
    new_p.lane[i] =
        p.lane[i] * k.keep - k.step_size * new_m.lane[i] / (sqrtf(new_v.lane[i] * k.inverse_correction2) + k.eps);
    copy.lane[i] = narrow<bf16>(new_p.lane[i]);
  }
  store_pack(at.parameter + first, new_p);
  store_pack(at.moment1 + first, new_m);
  store_pack(at.moment2 + first, new_v);
  if (at.copy != nullptr) store_pack(at.copy + first, copy);
}

// One thread owns 16 bytes of each f32 operand, or what is left of them at the end. No shared memory. Must move the
// gradient once, parameter and moments twice and the copy once; nothing if gradient_scale is not finite.
__global__ void __launch_bounds__(kBlock)
    adamw_kernel(Operands at, const float* gradient_scale, std::int64_t count, AdamWConstants k) {
  const float scale = gradient_scale == nullptr ? 1.f : *gradient_scale;
  if (!isfinite(scale)) return;
  const std::int64_t first = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * kSize;
  if (first + kSize <= count)
    update<kSize>(at, first, scale, k);
  else
    for (std::int64_t i = first; i < count; ++i) update<1>(at, i, scale, k);
}

}  // namespace

void run(const CudaContext& cuda, const AdamW& op) {
  const std::int64_t count = op.parameter.count();
  if (count == 0) return;
  const Operands operands{op.parameter.as<float>(), op.moment1.as<float>(), op.moment2.as<float>(), op.copy.as<bf16>(),
                          op.gradient.as<float>()};
  adamw_kernel<<<blocks_for(count, kBlock * kSize), kBlock, 0, stream_of(cuda)>>>(
      operands, op.gradient_scale.as<float>(), count, AdamWConstants(op));
  check_launch(AdamW::name);
}

}  // namespace omni
