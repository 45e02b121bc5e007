#include "kernels/adamw/adamw.h"

#include "kernels/adamw/constants.h"
#include "kernels/simd.h"

namespace omni {
namespace {

// copy may be null. All [count].
template <bool kCopy>
void update(float* __restrict p, float* __restrict m, float* __restrict v, bf16* __restrict copy,
            const float* __restrict gradient, float gradient_scale, std::int64_t count, AdamWConstants k) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * gradient_scale;
    m[i] = k.beta1 * m[i] + k.one_minus_beta1 * g;
    v[i] = k.beta2 * v[i] + k.one_minus_beta2 * g * g;
    p[i] = p[i] * k.keep - k.step_size * m[i] / (std::sqrt(v[i] * k.inverse_correction2) + k.eps);
    if constexpr (kCopy) copy[i] = round_to<bf16>(p[i]);
  }
}

}  // namespace

void AdamW::check(Check& that) const {
  that.operand("parameter", parameter, DType::f32, Shape{parameter.count()});
  that.same("parameter, moment1, moment2, gradient", parameter, moment1, moment2, gradient);
  that.optional("copy", copy, DType::bf16, parameter.shape);
  that.optional("gradient_scale", gradient_scale, DType::f32, Shape{1});
  that.that(step >= 1, "step is counted from 1, found " + std::to_string(step));
}

void run(const CpuContext& cpu, const AdamW& op) {
  const float scale = op.gradient_scale ? *op.gradient_scale.as<float>() : 1.f;
  if (!std::isfinite(scale)) return;
  const AdamWConstants k(op);
  parallel_ranges(cpu, op.parameter.count(), 4, [&](std::int64_t begin, std::int64_t end) {
    float *p = op.parameter.as<float>() + begin, *m = op.moment1.as<float>() + begin,
          *v = op.moment2.as<float>() + begin;
    const float* g = op.gradient.as<float>() + begin;
    if (op.copy)
      update<true>(p, m, v, op.copy.as<bf16>() + begin, g, scale, end - begin, k);
    else
      update<false>(p, m, v, nullptr, g, scale, end - begin, k);
  });
}

}  // namespace omni
