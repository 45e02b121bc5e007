#include "kernels/embedding/embedding.h"

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("embedding copies rows, and its backward sums them") {
  const TestContext run;
  const std::int64_t vocab = 37;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Shape& shape : awkward_shapes()) {
      const DType wide = wide_of(dtype);
      const std::int64_t rows = shape.rows(), width = shape.width();
      const OwnedTensor table = randn({vocab, width}, 1, dtype), ids = random_ids({rows, 1}, 2, vocab);
      const OwnedTensor y = unwritten(dtype, shape);
      run(Embedding{.y = y, .table = table, .ids = ids});
      const auto from = values_of(table);
      std::vector<double> expected, sums(from.size(), 0);
      const OwnedTensor dy = randn(shape, 3, dtype);
      const auto dys = values_of(dy);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < width; ++j) {
          const auto at = static_cast<std::size_t>(ids.as<std::int64_t>()[i] * width + j);
          expected.push_back(from[at]);
          sums[at] += dys[static_cast<std::size_t>(i * width + j)];
        }
      REQUIRE_CLOSE(y, expected, 0);

      const OwnedTensor dtable = unwritten(wide, {vocab, width}), again = unwritten(wide, {vocab, width});
      run(EmbeddingBackward{.dtable = dtable, .dy = dy, .ids = ids});  // rows that no id names become zero
      REQUIRE_CLOSE(dtable, sums, tolerance(wide, rows));
      TestContext{1}(EmbeddingBackward{.dtable = again, .dy = dy, .ids = ids});
      REQUIRE(same_bits(dtable, again));
      run(EmbeddingBackward{.dtable = dtable, .dy = dy, .ids = ids, .accumulate = true});
      for (double& value : sums) value *= 2;
      REQUIRE_CLOSE(dtable, sums, 2 * tolerance(wide, rows));
    }
}

TEST_CASE("embedding refuses ids outside the table and writes nothing") {
  const TestContext run;
  const OwnedTensor table = randn({5, 3}, 1, DType::f32), y(DType::f32, {2, 3}), ids(DType::i64, {2});
  for (const std::int64_t wrong : {std::int64_t{5}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    ids.as<std::int64_t>()[1] = wrong;
    const std::string message = "ids[1] is " + std::to_string(wrong) + ", expected 0 .. 4";
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = ids}), "embedding: " + message);
    REQUIRE_THROWS_WITH(run(EmbeddingBackward{.dtable = table, .dy = y, .ids = ids}), "embedding_backward: " + message);
  }
  REQUIRE_CLOSE(y, std::vector<double>(6, 0), 0);
  const OwnedTensor short_ids(DType::i64, {1}), floats(DType::f32, {2});
  REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = short_ids}), Catch::Contains("one row"));
  REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = floats}), Catch::Contains("ids must be i64"));
}
