#include "kernels/select_rows/select_rows.h"

#include "tests/support/numbers.h"

using namespace omni;

namespace {

struct Expected {
  std::vector<double> y, dx, dfrom;
};

Expected select_rows(const std::vector<double>& x, const std::vector<double>& from, const std::vector<double>& dy,
                     const OwnedTensor& source, std::size_t width) {
  Expected out{x, dy, std::vector<double>(from.size(), 0)};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::int64_t k = source.as<std::int64_t>()[i / width];
    if (k < 0) continue;
    const std::size_t at = static_cast<std::size_t>(k) * width + i % width;
    out.y[i] = from[at];
    out.dx[i] = 0;
    out.dfrom[at] += dy[i];
  }
  return out;
}

void check_select_rows(const TestContext& run, DType dtype, const Shape& shape, std::int64_t count,
                       const OwnedTensor& source) {
  const std::int64_t rows = shape.rows(), width = shape.width();
  const OwnedTensor x = randn(shape, 1, dtype), from = randn({count, width}, 2, dtype), dy = randn(shape, 3, dtype);
  const Expected expected =
      select_rows(values_of(x), values_of(from), values_of(dy), source, static_cast<std::size_t>(width));
  const OwnedTensor y = unwritten(dtype, shape), dx = unwritten(dtype, shape), dfrom = unwritten(dtype, {count, width}),
                    again = unwritten(dtype, {count, width});
  run(SelectRows{.y = y, .x = x, .from = from, .source = source});
  REQUIRE_CLOSE(y, expected.y, 0);
  run(SelectRows{.y = x, .x = x, .from = from, .source = source});  // in place
  REQUIRE(same_bits(x, y));

  run(SelectRowsBackward{.dx = dx, .dfrom = dfrom, .dy = dy, .source = source});
  REQUIRE_CLOSE(dx, expected.dx, 0);
  REQUIRE_CLOSE(dfrom, expected.dfrom, tolerance(dtype, rows));
  TestContext{1}(SelectRowsBackward{.dfrom = again, .dy = dy, .source = source});  // the order is part of the contract
  REQUIRE(same_bits(dfrom, again));
  const OwnedTensor alone = unwritten(dtype, shape);
  run(SelectRowsBackward{.dx = alone, .dy = dy, .source = source});
  REQUIRE(same_bits(alone, dx));
  const OwnedTensor copy = randn(shape, 3, dtype);
  run(SelectRowsBackward{.dx = copy, .dy = copy, .source = source});
  REQUIRE(same_bits(copy, dx));
  const OwnedTensor last = unwritten(dtype, {count, width});
  run(SelectRowsBackward{.dx = dy, .dfrom = last, .dy = dy, .source = source});  // both, in place
  REQUIRE(same_bits(dy, dx));
  REQUIRE(same_bits(last, dfrom));
}

}  // namespace

TEST_CASE("select_rows and its backward agree with loops in double") {
  const std::int64_t count = 11;
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const OwnedTensor source = random_ids({shape.rows(), 1}, 4, count);
      for (std::int64_t r = 0; r < shape.rows(); r += 3) source.as<std::int64_t>()[r] = -1 - r;
      check_select_rows(run, dtype, shape, count, source);
    }
}

TEST_CASE("select_rows that takes all rows, one row everywhere, none, and from nothing") {
  const std::int64_t rows = 259;
  const OwnedTensor each = zeros(DType::i64, {rows}), one = zeros(DType::i64, {rows}), none = zeros(DType::i64, {rows});
  for (std::int64_t r = 0; r < rows; ++r) {
    each.as<std::int64_t>()[r] = rows - 1 - r;
    one.as<std::int64_t>()[r] = 5;
    none.as<std::int64_t>()[r] = -1;
  }
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const std::int64_t width : {8, 5}) {
        for (const OwnedTensor* source : {&each, &one, &none})
          check_select_rows(run, dtype, {rows, width}, rows, *source);
        check_select_rows(run, dtype, {rows, width}, 0, none);
      }
}

TEST_CASE("select_rows refuses operands of other sizes") {
  const TestContext run;
  const OwnedTensor x = zeros(DType::f32, {3, 4}), from = zeros(DType::f32, {2, 5}), source = zeros(DType::i64, {3}),
                    few = zeros(DType::i64, {2});
  REQUIRE_THROWS_WITH(run(SelectRows{.y = x, .x = x, .from = from, .source = source}),
                      "select_rows: from must be f32 with 2 rows of width 4, found f32 [2, 5]");
  REQUIRE_THROWS_WITH(run(SelectRowsBackward{.dx = x, .dy = x, .source = few}),
                      "select_rows_backward: dy must be f32 with 2 rows of width 4, found f32 [3, 4]");
  REQUIRE_THROWS_WITH(run(SelectRowsBackward{.dfrom = from, .dy = x, .source = source}),
                      Catch::Contains("dfrom must be f32 with 2 rows of width 4"));
}
