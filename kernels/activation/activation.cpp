#include "kernels/activation/activation.h"

#include <numbers>

#include "kernels/simd.h"

namespace omni {
namespace {

struct GeluErf {
  template <class F>
  static F value(F x) {
    return x * F(0.5) * (1 + fast_erf(x * F(std::numbers::sqrt2 / 2)));
  }
  template <class F>
  static F slope(F x) {
    const F density = F(std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2) * fast_exp(x * x * F(-0.5));
    return F(0.5) * (1 + fast_erf(x * F(std::numbers::sqrt2 / 2))) + x * density;
  }
};

// (1 + tanh(u)) / 2 = sigmoid(2 u) spares the tanh.
struct GeluTanh {
  static constexpr double kScale = 2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi, kCubic = 0.044715;
  template <class F>
  static F value(F x) {
    return x * sigmoid(F(kScale) * (x + F(kCubic) * x * x * x));
  }
  template <class F>
  static F slope(F x) {
    const F s = sigmoid(F(kScale) * (x + F(kCubic) * x * x * x));
    return s + x * s * (1 - s) * F(kScale) * (1 + F(3 * kCubic) * x * x);
  }
};

struct SiluFunction {
  template <class F>
  static F value(F x) {
    return x * sigmoid(x);
  }
  template <class F>
  static F slope(F x) {
    const F s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

constexpr std::int64_t kActivationCost = 4;  // steps per element, for the split among threads

// y = function(x), all [count]
template <class Function>
void forward(const CpuContext& cpu, const View& to, const ConstView& from) {
  dispatch(to.dtype, [&]<class T>() {
    parallel_ranges(cpu, to.count(), kActivationCost,
                    [y = to.as<T>(), x = from.as<T>()](std::int64_t begin, std::int64_t end) {
#pragma omp simd
                      for (std::int64_t i = begin; i < end; ++i) y[i] = round_to<T>(Function::value(to_float(x[i])));
                    });
  });
}

// dx = dy * function'(x), all [count]
template <class Function>
void backward(const CpuContext& cpu, const View& to, const ConstView& gradient, const ConstView& from) {
  if (!to) return;
  dispatch(to.dtype, [&]<class T>() {
    parallel_ranges(cpu, to.count(), kActivationCost,
                    [dx = to.as<T>(), dy = gradient.as<T>(), x = from.as<T>()](std::int64_t begin, std::int64_t end) {
#pragma omp simd
                      for (std::int64_t i = begin; i < end; ++i)
                        dx[i] = round_to<T>(to_float(dy[i]) * Function::slope(to_float(x[i])));
                    });
  });
}

void check_backward(Check& that, const View& dx, const ConstView& dy, const ConstView& x) {
  that.same("dy, x", dy, x);
  that.optional("dx", dx, x.dtype, x.shape);
}

}  // namespace

void GeluBackward::check(Check& that) const { check_backward(that, dx, dy, x); }
void SiluBackward::check(Check& that) const { check_backward(that, dx, dy, x); }

void run(const CpuContext& cpu, const Gelu& op) {
  if (op.kind == Gelu::Kind::erf) return forward<GeluErf>(cpu, op.y, op.x);
  forward<GeluTanh>(cpu, op.y, op.x);
}

void run(const CpuContext& cpu, const GeluBackward& op) {
  if (op.kind == Gelu::Kind::erf) return backward<GeluErf>(cpu, op.dx, op.dy, op.x);
  backward<GeluTanh>(cpu, op.dx, op.dy, op.x);
}

void run(const CpuContext& cpu, const Silu& op) { forward<SiluFunction>(cpu, op.y, op.x); }

void run(const CpuContext& cpu, const SiluBackward& op) { backward<SiluFunction>(cpu, op.dx, op.dy, op.x); }

}  // namespace omni
