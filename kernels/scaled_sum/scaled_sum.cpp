#include "kernels/scaled_sum/scaled_sum.h"

#include "kernels/rounding.h"
#include "kernels/simd.h"

namespace omni {
namespace {

constexpr std::int64_t kChunk = 4096;

template <class T>
double dot(const T* x, const T* y, std::int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i)
    sum += static_cast<double>(to_float(x[i])) * static_cast<double>(to_float(y[i]));
  return sum;
}

// Scales a chunk of dy; dx may be dy.
template <class T>
void scale(T* dx, const T* dy, Wide<T> factor, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) dx[i] = round_to<T>(factor * to_float(dy[i]));
}

// Whichever of the two is dy itself comes last.
template <class T>
void scale_both(T* da, T* db, const T* dy, Wide<T> a_scale, Wide<T> b_scale, std::int64_t count) {
  const bool a_last = da == dy;
  if (da != nullptr && !a_last) scale(da, dy, a_scale, count);
  if (db != nullptr) scale(db, dy, b_scale, count);
  if (a_last) scale(da, dy, a_scale, count);
}

template <class W>
void write_sum(W* to, const double* sums, std::int64_t chunks, bool accumulate) {
  if (to == nullptr) return;
  double sum = accumulate ? static_cast<double>(*to) : 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk];
  *to = static_cast<W>(sum);
}

void check_scale(Check& that, const char* name, const Operand& scale, DType dtype) {
  that.operand(name, scale, dtype, scale.shape);
  that.that(scale.count() == 1, std::string(name) + " must be one number, found " + Check::text(scale));
}

// Chunks have a fixed size and their sums are added in order: how many threads there are makes no difference.
template <class T>
void backward(const CpuContext& cpu, const ScaledSumBackward& op) {
  const std::int64_t count = op.dy.count(), chunks = ceil_div(count, kChunk);
  const T *dy = op.dy.as<T>(), *a = op.a.as<T>(), *b = op.b.as<T>();
  T *da = op.da.as<T>(), *db = op.db.as<T>();
  const Wide<T> a_scale = *op.a_scale.as<Wide<T>>(), b_scale = *op.b_scale.as<Wide<T>>();
  double* const a_sums = cpu.scratch<double>(1, 2 * chunks).data;
  double* const b_sums = a_sums + chunks;
  parallel_ranges(cpu, chunks, kChunk, [=, &op](std::int64_t begin, std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t first = chunk * kChunk, size = std::min(kChunk, count - first);
      if (op.da_scale) a_sums[chunk] = dot(dy + first, a + first, size);
      if (op.db_scale) b_sums[chunk] = dot(dy + first, b + first, size);
      scale_both(da ? da + first : nullptr, db ? db + first : nullptr, dy + first, a_scale, b_scale, size);
    }
  });
  write_sum(op.da_scale.as<Wide<T>>(), a_sums, chunks, op.accumulate_a_scale);
  write_sum(op.db_scale.as<Wide<T>>(), b_sums, chunks, op.accumulate_b_scale);
}

}  // namespace

void ScaledSum::check(Check& that) const {
  that.same("y, a, b", y, a, b);
  check_scale(that, "a_scale", a_scale, wide_of(y.dtype));
  check_scale(that, "b_scale", b_scale, wide_of(y.dtype));
}

void ScaledSumBackward::check(Check& that) const {
  const DType wide = wide_of(dy.dtype);
  that.same("dy, a, b", dy, a, b);
  check_scale(that, "a_scale", a_scale, wide);
  check_scale(that, "b_scale", b_scale, wide);
  that.optional("da", da, dy.dtype, dy.shape);
  that.optional("db", db, dy.dtype, dy.shape);
  if (da_scale) check_scale(that, "da_scale", da_scale, wide);
  if (db_scale) check_scale(that, "db_scale", db_scale, wide);
}

Work ScaledSumBackward::work() const {
  const std::int64_t read = dy.bytes() + (da_scale ? a.bytes() : 0) + (db_scale ? b.bytes() : 0);
  const std::int64_t flops = (da ? 1 : 0) + (db ? 1 : 0) + (da_scale ? 2 : 0) + (db_scale ? 2 : 0);
  return {.bytes = read + da.bytes() + db.bytes(), .flops = flops * dy.count()};
}

void run(const CpuContext& cpu, const ScaledSum& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    T* y = op.y.as<T>();
    const T *a = op.a.as<T>(), *b = op.b.as<T>();
    const Wide<T> a_scale = *op.a_scale.as<Wide<T>>(), b_scale = *op.b_scale.as<Wide<T>>();
    parallel_ranges(cpu, op.y.count(), 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        y[i] = round_to<T>(a_scale * to_float(a[i]) + b_scale * to_float(b[i]));
    });
  });
}

void run(const CpuContext& cpu, const ScaledSumBackward& op) {
  dispatch(op.dy.dtype, [&]<class T>() { backward<T>(cpu, op); });
}

}  // namespace omni
