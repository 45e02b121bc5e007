#include "kernels/gather_rows/gather_rows.h"

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("gather_rows copies rows, and zeros where there is none") {
  const std::int64_t rows = 37;
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const std::int64_t count = shape.rows(), width = shape.width();
      const OwnedTensor x = randn({rows, width}, 1, dtype), source = random_ids({count}, 2, rows);
      for (std::int64_t i = 1; i < count; i += 4) source.as<std::int64_t>()[i] = -i;
      const auto from = values_of(x);
      std::vector<double> expected;
      for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j < width; ++j) {
          const std::int64_t row = source.as<std::int64_t>()[i];
          expected.push_back(row < 0 ? 0 : from[static_cast<std::size_t>(row * width + j)]);
        }
      const OwnedTensor y = unwritten(dtype, shape);
      run(GatherRows{.y = y, .x = x, .source = source});
      REQUIRE_CLOSE(y, expected, 0);
    }
}

TEST_CASE("gather_rows refuses a y of another size") {
  const TestContext run;
  const OwnedTensor x(DType::f32, {5, 3}), y(DType::f32, {2, 3}), source(DType::i64, {3});
  REQUIRE_THROWS_WITH(run(GatherRows{.y = y, .x = x, .source = source}),
                      "gather_rows: y must be f32 with 3 rows of width 3, found f32 [2, 3]");
}
