#include "kernels/embedding/embedding.h"

#include <cstring>

#include "kernels/simd.h"

namespace omni {
namespace {

void check_ids(Check that, const std::int64_t* ids, std::int64_t count, std::int64_t vocab) {
  for (std::int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= vocab)
      that.that(false, "ids[" + std::to_string(i) + "] is " + std::to_string(ids[i]) + ", expected 0 .. " +
                           std::to_string(vocab - 1));
}

// A counting sort of positions by id: those of id v stand in order[first[v]] .. order[first[v + 1] - 1], ascending.
//   first [vocab + 1], order [count]
void sort_by_id(std::int64_t* first, std::int64_t* order, const std::int64_t* ids, std::int64_t count,
                std::int64_t vocab) {
  std::fill_n(first, vocab + 1, 0);
  for (std::int64_t i = 0; i < count; ++i) ++first[ids[i] + 1];
  for (std::int64_t v = 0; v < vocab; ++v) first[v + 1] += first[v];
  for (std::int64_t i = 0; i < count; ++i) order[first[ids[i]]++] = i;
  for (std::int64_t v = vocab; v > 0; --v) first[v] = first[v - 1];  // each start has moved to its end
  first[0] = 0;
}

// y [width] = factor * the sum of the rows of these ids; sum [width] is scratch, scale [vocab] may be null.
template <class T, class S, class W>
void sum_ids(T* y, W* sum, const S* table, const float* scale, const std::int64_t* ids, std::int64_t group, W factor,
             std::int64_t width) {
  std::fill_n(sum, width, W{0});
  for (std::int64_t j = 0; j < group; ++j) {
    const S* from = table + ids[j] * width;
    const W times = scale ? scale[ids[j]] : W{1};
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) sum[i] += times * to_float(from[i]);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) y[i] = round_to<T>(factor * sum[i]);
}

template <class T, class S>
void sum_groups(const CpuContext& cpu, const Embedding& op) {
  using W = Wide<T>;
  const std::int64_t rows = op.y.rows(), width = op.y.width();
  const int parts = parts_for(cpu, rows, op.group * width);
  const auto sums = cpu.scratch<W>(parts, width);
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      sum_ids(op.y.as<T>() + row * width, sums.part(part), op.table.as<S>(), op.table_scale.as<float>(),
              op.ids.as<std::int64_t>() + row * op.group, op.group, static_cast<W>(op.factor), width);
  });
}

// One row of the table; positions: of its id, group of which share a row of dy.
template <class T, class W>
void sum_row(W* drow, const T* dy, const std::int64_t* positions, std::int64_t count, std::int64_t group, W factor,
             std::int64_t width, bool accumulate) {
  if (!accumulate) std::fill_n(drow, width, W{0});
  for (std::int64_t i = 0; i < count; ++i) {
    const T* from = dy + positions[i] / group * width;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) drow[j] += factor * to_float(from[j]);
  }
}

std::string ids_text(std::int64_t group) { return group == 1 ? "id" : std::to_string(group) + " ids"; }

}  // namespace

void Embedding::check(Check& that) const {
  that.rank("table", table, 2);
  that.operand("ids", ids, DType::i64, ids.shape);
  that.operand("y", y, table_scale ? DType::f32 : table.dtype, y.shape);
  that.optional("table_scale", table_scale, DType::f32, {table.rows()});
  that.that((table.dtype == DType::i8) == static_cast<bool>(table_scale) && (!table_scale || y.place != Place::cuda),
            "a table of i8 needs table_scale and the CPU");
  that.that(group > 0, "group must be positive, found " + std::to_string(group));
  that.that(y.width() == table.width() && y.rows() * group == ids.count(),
            "y must have one row of the table's width per " + ids_text(group) + ", found y " + Check::text(y) +
                ", table " + Check::text(table) + ", ids " + Check::text(ids));
}

void EmbeddingBackward::check(Check& that) const {
  that.operand("ids", ids, DType::i64, ids.shape);
  that.same("dy", dy);
  that.that(group > 0, "group must be positive, found " + std::to_string(group));
  that.that(dy.rows() * group == ids.count(), "dy must have one row per " + ids_text(group) + ", found dy " +
                                                  Check::text(dy) + ", ids " + Check::text(ids));
  that.optional("dtable", dtable, wide_of(dy.dtype), Shape{dtable.rows(), dy.width()});
}

void run(const CpuContext& cpu, const Embedding& op) {
  const std::int64_t* ids = op.ids.as<std::int64_t>();
  check_ids(Check(Embedding::name), ids, op.ids.count(), op.table.rows());
  const std::int64_t row_bytes = op.y.width() * static_cast<std::int64_t>(size_of(op.y.dtype));
  if (row_bytes == 0) return;
  if (op.table_scale) return sum_groups<float, std::int8_t>(cpu, op);
  if (op.group != 1 || op.factor != 1) return dispatch(op.y.dtype, [&]<class T>() { sum_groups<T, T>(cpu, op); });
  parallel_ranges(cpu, op.ids.count(), row_bytes / 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      std::memcpy(static_cast<std::byte*>(op.y.data) + i * row_bytes,
                  static_cast<const std::byte*>(op.table.data) + ids[i] * row_bytes,
                  static_cast<std::size_t>(row_bytes));
  });
}

void run(const CpuContext& cpu, const EmbeddingBackward& op) {
  if (!op.dtable) return;
  const std::int64_t count = op.ids.count(), vocab = op.dtable.rows(), width = op.dy.width();
  const std::int64_t* ids = op.ids.as<std::int64_t>();
  check_ids(Check(EmbeddingBackward::name), ids, count, vocab);
  std::int64_t* const first = cpu.scratch<std::int64_t>(1, vocab + 1 + count).data;
  std::int64_t* const order = first + vocab + 1;
  sort_by_id(first, order, ids, count, vocab);
  dispatch(op.dy.dtype, [&]<class T>() {
    using W = Wide<T>;
    const int threads = parts_for(cpu, vocab + count, width);
    // Frequent ids make uneven work, so threads take blocks of rows as they come; a row's sum does not depend on who
    // adds.
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    for (std::int64_t v = 0; v < vocab; ++v)
      sum_row(op.dtable.as<W>() + v * width, op.dy.as<T>(), order + first[v], first[v + 1] - first[v], op.group,
              static_cast<W>(op.factor), width, op.accumulate);
  });
}

}  // namespace omni
