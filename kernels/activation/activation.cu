#include <numbers>

#include "kernels/activation/activation.h"
#include "kernels/cuda/map.cuh"
#include "kernels/cuda/math.cuh"

namespace omni {
namespace {

struct GeluErf {
  static __device__ float value(float x) { return x * cumulative(x); }
  static __device__ float slope(float x) {
    constexpr float kDensity = static_cast<float>(std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2);
    return cumulative(x) + x * kDensity * __expf(x * x * -0.5f);
  }

 private:
  static __device__ float cumulative(float x) {
    return 0.5f * (1 + erff(x * static_cast<float>(std::numbers::sqrt2 / 2)));
  }
};

// (1 + tanh(u)) / 2 = sigmoid(2 u) spares the tanh.
struct GeluTanh {
  static __device__ float value(float x) { return x * gate(x); }
  static __device__ float slope(float x) {
    const float s = gate(x);
    return s + x * s * (1 - s) * kScale * (1 + 3 * kCubic * x * x);
  }

 private:
  static constexpr float kScale = static_cast<float>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi),
                         kCubic = 0.044715f;
  static __device__ float gate(float x) { return sigmoid(kScale * (x + kCubic * x * x * x)); }
};

struct SiluFunction {
  static __device__ float value(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    const float s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

// y = Function::value(x), for map().
template <class Function>
struct Forward {
  __device__ float operator()(float x) const { return Function::value(x); }
};

// dx = dy * Function::slope(x), for map().
template <class Function>
struct Backward {
  __device__ float operator()(float dy, float x) const { return dy * Function::slope(x); }
};

template <class Function, class Op>
void forward(const CudaContext& cuda, const Op& op) {
  dispatch_cuda(op.y.dtype, [&]<class T>() {
    map(cuda, Op::name, Forward<Function>(), op.y.count(), op.y.template as<T>(), op.x.template as<T>());
  });
}

template <class Function, class Op>
void backward(const CudaContext& cuda, const Op& op) {
  if (!op.dx) return;
  dispatch_cuda(op.dx.dtype, [&]<class T>() {
    map(cuda, Op::name, Backward<Function>(), op.dx.count(), op.dx.template as<T>(), op.dy.template as<T>(),
        op.x.template as<T>());
  });
}

}  // namespace

void run(const CudaContext& cuda, const Gelu& op) {
  if (op.kind == Gelu::Kind::erf) return forward<GeluErf>(cuda, op);
  forward<GeluTanh>(cuda, op);
}

void run(const CudaContext& cuda, const GeluBackward& op) {
  if (op.kind == Gelu::Kind::erf) return backward<GeluErf>(cuda, op);
  backward<GeluTanh>(cuda, op);
}

void run(const CudaContext& cuda, const Silu& op) { forward<SiluFunction>(cuda, op); }

void run(const CudaContext& cuda, const SiluBackward& op) { backward<SiluFunction>(cuda, op); }

}  // namespace omni
