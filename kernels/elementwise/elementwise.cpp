#include "kernels/elementwise/elementwise.h"

#include <cstring>

#include "kernels/simd.h"

namespace omni {
namespace {

bool is_computed(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64; }

// y[i] = function(i) for all of [count]
template <class T, class Function>
void map(const CpuContext& cpu, T* y, std::int64_t count, const Function& function) {
  parallel_ranges(cpu, count, 1, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = round_to<T>(function(i));
  });
}

template <class T, class W>
void add_bias(const CpuContext& cpu, T* y, const T* x, const W* bias, std::int64_t rows, std::int64_t width) {
  parallel_ranges(cpu, rows, width, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* to = y + row * width;
      const T* from = x + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) to[i] = round_to<T>(to_float(from[i]) + bias[i]);
    }
  });
}

template <class T, class W>
void bias_backward(const CpuContext& cpu, W* dbias, const T* dy, std::int64_t rows, std::int64_t width,
                   bool accumulate) {
  const int parts = parts_for(cpu, rows, width);
  const auto partial = cpu.scratch<W>(parts, width);
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    W* sum = partial.part(part);
    std::fill_n(sum, width, W{0});
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = dy + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) sum[i] += to_float(from[i]);
    }
  });
  add_parts(dbias, partial, parts, width, accumulate);
}

}  // namespace

void Copy::check(Check& that) const {
  that.same("y", y);
  that.same("x", x);
  that.that(y.count() == x.count(),
            "y and x must have equal counts, found " + Check::text(y) + " and " + Check::text(x));
  that.that(y.dtype == x.dtype || (is_computed(y.dtype) && is_computed(x.dtype)),
            std::string("cannot convert ") + name_of(x.dtype) + " to " + name_of(y.dtype));
}

void ScaleByScalar::check(Check& that) const {
  that.same("x", x);
  that.same("factor", factor);
  that.that(factor.count() == 1 && (factor.dtype == DType::f32 || factor.dtype == x.dtype),
            std::string("factor must be one number of f32 or ") + name_of(x.dtype) + ", found " + Check::text(factor));
}

void AddBias::check(Check& that) const {
  that.same("y, x", y, x);
  that.operand("bias", bias, wide_of(x.dtype), Shape{x.width()});
}

void BiasBackward::check(Check& that) const {
  that.same("dy", dy);
  that.optional("dbias", dbias, wide_of(dy.dtype), Shape{dy.width()});
}

void run(const CpuContext& cpu, const Fill& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    const T value = round_to<T>(op.value);
    parallel_ranges(cpu, op.y.count(), 1, [y = op.y.as<T>(), value](std::int64_t begin, std::int64_t end) {
      std::fill(y + begin, y + end, value);
    });
  });
}

void run(const CpuContext& cpu, const Copy& op) {
  if (op.y.dtype == op.x.dtype) {
    parallel_ranges(cpu, op.y.bytes(), 1, [&](std::int64_t begin, std::int64_t end) {
      if (begin == end) return;
      std::memcpy(static_cast<std::byte*>(op.y.data) + begin, static_cast<const std::byte*>(op.x.data) + begin,
                  static_cast<std::size_t>(end - begin));
    });
    return;
  }
  dispatch(op.y.dtype, [&]<class Y>() {
    dispatch(op.x.dtype, [&]<class X>() {
      map(cpu, op.y.as<Y>(), op.y.count(), [x = op.x.as<X>()](std::int64_t i) { return to_float(x[i]); });
    });
  });
}

void run(const CpuContext& cpu, const Add& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    map(cpu, op.y.as<T>(), op.y.count(),
        [a = op.a.as<T>(), b = op.b.as<T>()](std::int64_t i) { return to_float(a[i]) + to_float(b[i]); });
  });
}

void run(const CpuContext& cpu, const Scale& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    const auto factor = static_cast<Wide<T>>(op.factor);
    map(cpu, op.y.as<T>(), op.y.count(),
        [x = op.x.as<T>(), factor](std::int64_t i) { return factor * to_float(x[i]); });
  });
}

void run(const CpuContext& cpu, const ScaleByScalar& op) {
  double factor = 0;
  dispatch(op.factor.dtype, [&]<class T>() { factor = to_float(*op.factor.as<T>()); });
  if (factor != 1) run(cpu, Scale{.y = op.x, .x = op.x, .factor = factor});
}

void run(const CpuContext& cpu, const AddBias& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    add_bias(cpu, op.y.as<T>(), op.x.as<T>(), op.bias.as<Wide<T>>(), op.y.rows(), op.y.width());
  });
}

void run(const CpuContext& cpu, const BiasBackward& op) {
  if (!op.dbias) return;
  dispatch(op.dy.dtype, [&]<class T>() {
    bias_backward(cpu, op.dbias.as<Wide<T>>(), op.dy.as<T>(), op.dy.rows(), op.dy.width(), op.accumulate);
  });
}

}  // namespace omni
