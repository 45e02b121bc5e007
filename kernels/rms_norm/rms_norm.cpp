#include "kernels/rms_norm/rms_norm.h"

#include "kernels/simd.h"

namespace omni {
namespace {

// y = x * rstd * weight   y, x, weight [width]; returns rstd
template <class T, class W>
W norm_row(T* y, const T* x, const W* weight, std::int64_t width, W eps) {
  W squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < width; ++i) {
    const W value = to_float(x[i]);
    squares += value * value;
  }
  const W rstd = 1 / std::sqrt(squares / static_cast<W>(width) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) y[i] = round_to<T>(to_float(x[i]) * rstd * weight[i]);
  return rstd;
}

// One row of dx; sum_dweight [width] gains this row's share of dweight unless it is null.
template <class T, class W>
void backward_row(T* dx, W* sum_dweight, const T* dy, const T* x, W rstd, const W* weight, std::int64_t width,
                  bool accumulate_dx) {
  if (sum_dweight != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) sum_dweight[i] += to_float(dy[i]) * to_float(x[i]) * rstd;
  }
  if (dx == nullptr) return;
  W product = 0;
#pragma omp simd reduction(+ : product)
  for (std::int64_t i = 0; i < width; ++i) product += to_float(dy[i]) * weight[i] * to_float(x[i]);
  const W shift = product * rstd * rstd / static_cast<W>(width);  // mean(g * h) * rstd
  if (accumulate_dx) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i)
      dx[i] = round_to<T>(to_float(dx[i]) + rstd * (to_float(dy[i]) * weight[i] - to_float(x[i]) * shift));
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i)
      dx[i] = round_to<T>(rstd * (to_float(dy[i]) * weight[i] - to_float(x[i]) * shift));
  }
}

template <class T>
void backward(const CpuContext& cpu, const RmsNormBackward& op) {
  using W = Wide<T>;
  const std::int64_t rows = op.dy.rows(), width = op.dy.width();
  T* dx = op.dx.as<T>();
  const T *dy = op.dy.as<T>(), *x = op.x.as<T>();
  const W *rstd = op.rstd.as<W>(), *weight = op.weight.as<W>();
  const int parts = parts_for(cpu, rows, width);
  const auto partial = cpu.scratch<W>(parts, width);
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    W* sum = op.dweight ? partial.part(part) : nullptr;
    if (sum != nullptr) std::fill_n(sum, width, W{0});
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t at = row * width;
      backward_row(dx == nullptr ? nullptr : dx + at, sum, dy + at, x + at, rstd[row], weight, width, op.accumulate_dx);
    }
  });
  if (op.dweight) add_parts(op.dweight.as<W>(), partial, parts, width, op.accumulate);
}

}  // namespace

void RmsNorm::check(Check& that) const {
  that.same("y, x", y, x);
  that.operand("weight", weight, wide_of(x.dtype), Shape{x.width()});
  that.optional("rstd", rstd, wide_of(x.dtype), Shape{x.rows()});
}

void AddRmsNorm::check(Check& that) const {
  that.same("sum, y, x, residual", sum, y, x, residual);
  that.operand("weight", weight, wide_of(x.dtype), Shape{x.width()});
  that.optional("rstd", rstd, wide_of(x.dtype), Shape{x.rows()});
}

void RmsNormBackward::check(Check& that) const {
  that.same("dy, x", dy, x);
  that.optional("dx", dx, x.dtype, x.shape);
  that.operand("rstd", rstd, wide_of(x.dtype), Shape{x.rows()});
  that.operand("weight", weight, wide_of(x.dtype), Shape{x.width()});
  that.optional("dweight", dweight, wide_of(x.dtype), Shape{x.width()});
}

void run(const CpuContext& cpu, const RmsNorm& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    using W = Wide<T>;
    const std::int64_t width = op.y.width();
    parallel_ranges(cpu, op.y.rows(), width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const W rstd = norm_row(op.y.as<T>() + row * width, op.x.as<T>() + row * width, op.weight.as<W>(), width,
                                static_cast<W>(op.eps));
        if (op.rstd) op.rstd.as<W>()[row] = rstd;
      }
    });
  });
}

void run(const CpuContext& cpu, const AddRmsNorm& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    using W = Wide<T>;
    const std::int64_t width = op.y.width();
    parallel_ranges(cpu, op.y.rows(), width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* sum = op.sum.as<T>() + row * width;
        const T *x = op.x.as<T>() + row * width, *residual = op.residual.as<T>() + row * width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) sum[i] = round_to<T>(to_float(x[i]) + to_float(residual[i]));
        const W rstd = norm_row(op.y.as<T>() + row * width, sum, op.weight.as<W>(), width, static_cast<W>(op.eps));
        if (op.rstd) op.rstd.as<W>()[row] = rstd;
      }
    });
  });
}

void run(const CpuContext& cpu, const RmsNormBackward& op) {
  dispatch(op.dy.dtype, [&]<class T>() { backward<T>(cpu, op); });
}

}  // namespace omni
