#include "kernels/adamw/adamw.h"

#include "kernels/simd.h"

namespace omni {
namespace {

struct Constants {
  float keep, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_correction2, eps, gradient_scale;
};

// copy may be null. All [count].
template <bool kCopy>
void update(float* __restrict p, float* __restrict m, float* __restrict v, bf16* __restrict copy,
            const float* __restrict gradient, std::int64_t count, Constants k) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * k.gradient_scale;
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
  const double t = static_cast<double>(op.step);
  const Constants k{
      .keep = static_cast<float>(1 - op.learning_rate * op.weight_decay),
      .beta1 = static_cast<float>(op.beta1),
      .one_minus_beta1 = static_cast<float>(1 - op.beta1),
      .beta2 = static_cast<float>(op.beta2),
      .one_minus_beta2 = static_cast<float>(1 - op.beta2),
      .step_size = static_cast<float>(op.learning_rate / (1 - std::pow(op.beta1, t))),
      .inverse_correction2 = static_cast<float>(1 / (1 - std::pow(op.beta2, t))),
      .eps = static_cast<float>(op.eps),
      .gradient_scale = op.gradient_scale ? *op.gradient_scale.as<float>() : 1.f,
  };
  parallel_ranges(cpu, op.parameter.count(), 4, [&](std::int64_t begin, std::int64_t end) {
    float *p = op.parameter.as<float>() + begin, *m = op.moment1.as<float>() + begin,
          *v = op.moment2.as<float>() + begin;
    const float* g = op.gradient.as<float>() + begin;
    if (op.copy)
      update<true>(p, m, v, op.copy.as<bf16>() + begin, g, end - begin, k);
    else
      update<false>(p, m, v, nullptr, g, end - begin, k);
  });
}

}  // namespace omni
