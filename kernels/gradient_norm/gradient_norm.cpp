#include "kernels/gradient_norm/gradient_norm.h"

#include "kernels/rounding.h"
#include "kernels/simd.h"

namespace omni {
namespace {

constexpr std::int64_t kChunk = 4096;

double sum_of_squares(const float* x, std::int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace

void GradientNorm::check(Check& that) const {
  that.operand("gradient", gradient, DType::f32, Shape{gradient.count()});
  that.operand("norm", norm, DType::f32, Shape{1});
  that.operand("scale", scale, DType::f32, Shape{1});
}

// Chunks have a fixed size and their sums are added in order: how many threads there are makes no difference.
void run(const CpuContext& cpu, const GradientNorm& op) {
  const std::int64_t count = op.gradient.count(), chunks = ceil_div(count, kChunk);
  const float* gradient = op.gradient.as<float>();
  double* sums = cpu.scratch<double>(1, chunks).data;
  parallel_ranges(cpu, chunks, kChunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk)
      sums[chunk] = sum_of_squares(gradient + chunk * kChunk, std::min(kChunk, count - chunk * kChunk));
  });
  double total = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk];
  const double norm = std::sqrt(total), factor = op.max_norm / (norm + 1e-6);
  const float rounded = static_cast<float>(norm);
  const float scale = op.max_norm <= 0 || factor >= 1 ? 1.f : static_cast<float>(factor);
  *op.norm.as<float>() = rounded;
  *op.scale.as<float>() = std::isfinite(rounded) ? scale : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace omni
