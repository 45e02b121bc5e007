#include "kernels/swiglu/swiglu.h"

#include "kernels/simd.h"

namespace omni {
namespace {

constexpr std::int64_t kSwigluCost = 4;  // steps per element, for the split among threads: the exponential dominates

template <class T>
void swiglu_row(T* y, const T* gate, const T* up, std::int64_t width) {  // all [width]
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const auto g = to_float(gate[i]);
    y[i] = round_to<T>(g * sigmoid(g) * to_float(up[i]));
  }
}

template <class T>
void swiglu_backward_row(T* dgate, T* dup, const T* dy, const T* gate, const T* up, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const auto g = to_float(gate[i]), u = to_float(up[i]), d = to_float(dy[i]);
    const auto s = sigmoid(g);
    dgate[i] = round_to<T>(d * u * s * (1 + g * (1 - s)));
    dup[i] = round_to<T>(d * g * s);
  }
}

Shape packed(const ConstView& y) { return y.shape.rank() == 0 ? Shape{2} : y.shape.with_width(2 * y.width()); }

}  // namespace

void SwiGlu::check(Check& that) const {
  that.same("y", y);
  that.operand("gate_up", gate_up, y.dtype, packed(y));
}

void SwiGluBackward::check(Check& that) const {
  that.same("dy", dy);
  that.operand("gate_up", gate_up, dy.dtype, packed(dy));
  that.optional("dgate_up", dgate_up, dy.dtype, gate_up.shape);
}

void run(const CpuContext& cpu, const SwiGlu& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    const std::int64_t width = op.y.width();
    parallel_ranges(cpu, op.y.rows(), kSwigluCost * width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* gate = op.gate_up.as<T>() + 2 * row * width;
        swiglu_row(op.y.as<T>() + row * width, gate, gate + width, width);
      }
    });
  });
}

void run(const CpuContext& cpu, const SwiGluBackward& op) {
  if (!op.dgate_up) return;
  dispatch(op.dy.dtype, [&]<class T>() {
    const std::int64_t width = op.dy.width();
    parallel_ranges(cpu, op.dy.rows(), kSwigluCost * width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* gate = op.gate_up.as<T>() + 2 * row * width;
        T* dgate = op.dgate_up.as<T>() + 2 * row * width;
        swiglu_backward_row(dgate, dgate + width, op.dy.as<T>() + row * width, gate, gate + width, width);
      }
    });
  });
}

}  // namespace omni
