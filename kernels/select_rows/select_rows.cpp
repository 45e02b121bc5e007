#include "kernels/select_rows/select_rows.h"

#include "kernels/simd.h"

namespace omni {
namespace {

template <class T>
void select_rows(const CpuContext& cpu, T* y, const T* x, const T* from, const std::int64_t* source, std::int64_t rows,
                 std::int64_t width) {
  parallel_ranges(cpu, rows, width, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      T* to = y + r * width;
      const T* row = source[r] < 0 ? x + r * width : from + source[r] * width;
      if (row != to) std::copy_n(row, width, to);
    }
  });
}

template <class T>
void write_dx(const CpuContext& cpu, T* dx, const T* dy, const std::int64_t* source, std::int64_t rows,
              std::int64_t width) {
  parallel_ranges(cpu, rows, width, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      T* to = dx + r * width;
      if (source[r] >= 0)
        std::fill_n(to, width, T{});
      else if (dx != dy)
        std::copy_n(dy + r * width, width, to);
    }
  });
}

// Lists of the rows that took each row k, in ascending order: first[k], next[first[k]], ... until -1.
//   first [count], next [rows]
void list_takers(std::int64_t* first, std::int64_t* next, const std::int64_t* source, std::int64_t count,
                 std::int64_t rows) {
  std::fill_n(first, count, -1);
  for (std::int64_t r = rows - 1; r >= 0; --r) {
    if (source[r] < 0) continue;
    next[r] = first[source[r]];
    first[source[r]] = r;
  }
}

template <class T>
void write_dfrom(const CpuContext& cpu, T* dfrom, const T* dy, const std::int64_t* source, std::int64_t count,
                 std::int64_t rows, std::int64_t width) {
  using W = Wide<T>;
  const int parts = parts_for(cpu, count + rows, width);
  const auto scratch = cpu.scratch<std::int64_t>(1, count + rows + parts * width);
  std::int64_t *first = scratch.data, *next = first + count;
  list_takers(first, next, source, count, rows);
  parallel_parts(parts, count, [=](int part, std::int64_t begin, std::int64_t end) {
    W* sum = reinterpret_cast<W*>(next + rows + part * width);
    for (std::int64_t k = begin; k < end; ++k) {
      std::fill_n(sum, width, W{0});
      for (std::int64_t r = first[k]; r >= 0; r = next[r]) {
        const T* d = dy + r * width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) sum[i] += to_float(d[i]);
      }
      T* to = dfrom + k * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) to[i] = round_to<T>(sum[i]);
    }
  });
}

}  // namespace

void SelectRows::check(Check& that) const {
  that.operand("source", source, DType::i64, source.shape);
  that.matrix("y", y, y.dtype, source.count(), y.width());
  that.matrix("x", x, y.dtype, source.count(), y.width());
  that.matrix("from", from, y.dtype, from.rows(), y.width());
}

void SelectRowsBackward::check(Check& that) const {
  that.operand("source", source, DType::i64, source.shape);
  that.matrix("dy", dy, dy.dtype, source.count(), dy.width());
  if (dx) that.matrix("dx", dx, dy.dtype, source.count(), dy.width());
  if (dfrom) that.matrix("dfrom", dfrom, dy.dtype, dfrom.rows(), dy.width());
}

Work SelectRowsBackward::work() const {
  return {.bytes = dy.bytes() + dx.bytes() + dfrom.bytes() + source.bytes(), .flops = dfrom.count()};
}

void run(const CpuContext& cpu, const SelectRows& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    select_rows(cpu, op.y.as<T>(), op.x.as<T>(), op.from.as<T>(), op.source.as<std::int64_t>(), op.y.rows(),
                op.y.width());
  });
}

void run(const CpuContext& cpu, const SelectRowsBackward& op) {
  const std::int64_t *source = op.source.as<std::int64_t>(), rows = op.dy.rows(), width = op.dy.width();
  dispatch(op.dy.dtype, [&]<class T>() {
    const T* dy = op.dy.as<T>();
    if (op.dfrom) write_dfrom(cpu, op.dfrom.as<T>(), dy, source, op.dfrom.rows(), rows, width);
    if (op.dx) write_dx(cpu, op.dx.as<T>(), dy, source, rows, width);  // after dfrom: dx may be dy
  });
}

}  // namespace omni
