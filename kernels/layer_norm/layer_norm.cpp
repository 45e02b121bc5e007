#include "kernels/layer_norm/layer_norm.h"

#include "kernels/simd.h"

namespace omni {
namespace {

template <class W>
struct Statistics {
  W mean, rstd;
};

// y, x, weight, bias [width]. Two passes, so that a mean far from zero does not drown the variance.
template <class T, class W>
Statistics<W> norm_row(T* y, const T* x, const W* weight, const W* bias, std::int64_t width, W eps) {
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += to_float(x[i]);
  const W mean = sum / static_cast<W>(width);
  W squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < width; ++i) {
    const W centred = to_float(x[i]) - mean;
    squares += centred * centred;
  }
  const W rstd = 1 / std::sqrt(squares / static_cast<W>(width) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) y[i] = round_to<T>((to_float(x[i]) - mean) * rstd * weight[i] + bias[i]);
  return {mean, rstd};
}

template <class T, class W>
void dx_row(T* dx, const T* dy, const T* x, Statistics<W> of, const W* weight, std::int64_t width) {
  W sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (std::int64_t i = 0; i < width; ++i) {
    const W g = to_float(dy[i]) * weight[i];
    sum += g;
    product += g * ((to_float(x[i]) - of.mean) * of.rstd);
  }
  const W mean_g = sum / static_cast<W>(width), mean_gh = product / static_cast<W>(width);
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const W h = (to_float(x[i]) - of.mean) * of.rstd;
    dx[i] = round_to<T>(of.rstd * (to_float(dy[i]) * weight[i] - mean_g - h * mean_gh));
  }
}

// Adds one row's share to the sums for dweight and dbias, both [width].
template <class T, class W>
void add_row(W* dweight, W* dbias, const T* dy, const T* x, Statistics<W> of, std::int64_t width) {
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) {
    const W d = to_float(dy[i]);
    dweight[i] += d * ((to_float(x[i]) - of.mean) * of.rstd);
    dbias[i] += d;
  }
}

template <class T>
void backward(const CpuContext& cpu, const LayerNormBackward& op) {
  using W = Wide<T>;
  const std::int64_t rows = op.dy.rows(), width = op.dy.width();
  const T *dy = op.dy.as<T>(), *x = op.x.as<T>();
  const bool wants_sums = op.dweight || op.dbias;
  const int parts = parts_for(cpu, rows, width);
  const auto partial = cpu.scratch<W>(2 * parts, width);  // for dweight, then for dbias
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    W *sum_weight = partial.part(part), *sum_bias = partial.part(parts + part);
    std::fill_n(sum_weight, width, W{0});
    std::fill_n(sum_bias, width, W{0});
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t at = row * width;
      const Statistics<W> of{op.mean.as<W>()[row], op.rstd.as<W>()[row]};
      if (wants_sums) add_row(sum_weight, sum_bias, dy + at, x + at, of, width);
      if (op.dx) dx_row(op.dx.as<T>() + at, dy + at, x + at, of, op.weight.as<W>(), width);
    }
  });
  if (op.dweight) add_parts(op.dweight.as<W>(), partial, parts, width, op.accumulate_dweight);
  if (op.dbias) add_parts(op.dbias.as<W>(), {partial.part(parts), partial.stride}, parts, width, op.accumulate_dbias);
}

}  // namespace

void LayerNorm::check(Check& that) const {
  that.same("y, x", y, x);
  const DType wide = wide_of(x.dtype);
  that.operand("weight", weight, wide, Shape{x.width()});
  that.operand("bias", bias, wide, Shape{x.width()});
  that.optional("mean", mean, wide, Shape{x.rows()});
  that.optional("rstd", rstd, wide, Shape{x.rows()});
}

void LayerNormBackward::check(Check& that) const {
  that.same("dy, x", dy, x);
  const DType wide = wide_of(x.dtype);
  that.optional("dx", dx, x.dtype, x.shape);
  that.operand("mean", mean, wide, Shape{x.rows()});
  that.operand("rstd", rstd, wide, Shape{x.rows()});
  that.operand("weight", weight, wide, Shape{x.width()});
  that.optional("dweight", dweight, wide, Shape{x.width()});
  that.optional("dbias", dbias, wide, Shape{x.width()});
}

void run(const CpuContext& cpu, const LayerNorm& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    using W = Wide<T>;
    const std::int64_t width = op.y.width();
    parallel_ranges(cpu, op.y.rows(), width, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const auto of = norm_row(op.y.as<T>() + row * width, op.x.as<T>() + row * width, op.weight.as<W>(),
                                 op.bias.as<W>(), width, static_cast<W>(op.eps));
        if (op.mean) op.mean.as<W>()[row] = of.mean;
        if (op.rstd) op.rstd.as<W>()[row] = of.rstd;
      }
    });
  });
}

void run(const CpuContext& cpu, const LayerNormBackward& op) {
  dispatch(op.dy.dtype, [&]<class T>() { backward<T>(cpu, op); });
}

}  // namespace omni
