#include "kernels/embedding/embedding.h"

#include <algorithm>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

// Both instructions against loops; the sums also against the CPU on one thread, bit for bit, since their order is part
// of the contract. The factor must be a power of two, so that it adds no rounding.
void check_embedding(const TestContext& run, DType dtype, const Shape& shape, const OwnedTensor& ids,
                     std::int64_t vocab, std::int64_t group = 1, double factor = 1) {
  const DType wide = wide_of(dtype);
  const std::int64_t rows = shape.rows(), width = shape.width();
  const OwnedTensor table = randn({vocab, width}, 1, dtype), y = unwritten(dtype, shape), y2 = unwritten(dtype, shape);
  const Embedding forward{.y = y, .table = table, .ids = ids, .group = group, .factor = factor};
  run(forward);
  TestContext{1}(Embedding{.y = y2, .table = table, .ids = ids, .group = group, .factor = factor});
  REQUIRE(same_bits(y, y2));
  const auto from = values_of(table);
  std::vector<double> expected(static_cast<std::size_t>(shape.count()), 0), sums(from.size(), 0);
  const OwnedTensor dy = randn(shape, 3, dtype);
  const auto dys = values_of(dy);
  for (std::int64_t i = 0; i < rows * group; ++i)
    for (std::int64_t j = 0; j < width; ++j) {
      const auto at = static_cast<std::size_t>(ids.as<std::int64_t>()[i] * width + j);
      const auto in_y = static_cast<std::size_t>(i / group * width + j);
      expected[in_y] += factor * from[at];
      sums[at] += factor * dys[in_y];
    }
  REQUIRE_CLOSE(y, expected, group == 1 && factor == 1 ? 0 : tolerance(dtype, group));

  const OwnedTensor dtable = unwritten(wide, {vocab, width}), again = unwritten(wide, {vocab, width});
  EmbeddingBackward backward{.dtable = dtable, .dy = dy, .ids = ids, .group = group, .factor = factor};
  run(backward);  // rows that no id names become zero
  REQUIRE_CLOSE(dtable, sums, tolerance(wide, rows * group));
  backward.dtable = again;
  TestContext{1}(backward);
  REQUIRE(same_bits(dtable, again));
  backward.accumulate = true;
  TestContext{1}(backward);
  backward.dtable = dtable;
  run(backward);
  for (double& value : sums) value *= 2;
  REQUIRE_CLOSE(dtable, sums, 2 * tolerance(wide, rows * group));
  REQUIRE(same_bits(dtable, again));
}

}  // namespace

TEST_CASE("embedding copies rows, and its backward sums them") {
  const std::int64_t vocab = 37;
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run))
      check_embedding(run, dtype, shape, random_ids({shape.rows(), 1}, 2, vocab), vocab);
}

TEST_CASE("embedding of several ids per row") {
  const std::int64_t vocab = 37;
  for (const TestContext& run : TestContext::all()) {
    for (const DType dtype : run.dtypes())
      for (const Shape& shape : {Shape{0, 7}, {1, 1}, {3, 7}, {17, 33}, {3, 96}, {2, 1023}, {2, 1032}})
        for (const auto& [group, factor] : {std::pair<std::int64_t, double>{1, 0.25}, {2, 1}, {8, 0.125}, {9, 2}})
          check_embedding(run, dtype, shape, random_ids({shape.rows() * group}, 2, vocab), vocab, group, factor);
    check_embedding(run, DType::f32, {300, 4}, random_ids({300, 8}, 3, 700), 700, 8, 0.125);
    check_embedding(run, DType::bf16, {170, 24}, zeros(DType::i64, {170, 7}), 3, 7, 0.5);
  }
}

TEST_CASE("embedding of several ids per row refuses one outside the table, and ids that do not divide") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor table = randn({5, 3}, 1, DType::f32), y = unwritten(DType::f32, {2, 3}),
                      ids = zeros(DType::i64, {6}), untouched = unwritten(DType::f32, {1, 3});
    ids.as<std::int64_t>()[4] = 5;
    const std::string which = run.is_cpu() ? "ids[4] is" : "an id is";
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = ids, .group = 3}),
                        "embedding: " + which + " 5, expected 0 .. 4");
    REQUIRE(same_bits(slice(y.view(), 3, {1, 3}), untouched));
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = ids, .group = 2}),
                        Catch::Contains("y must have one row of the table's width per 2 ids"));
    REQUIRE_THROWS_WITH(run(EmbeddingBackward{.dtable = table, .dy = y, .ids = ids, .group = 4}),
                        Catch::Contains("dy must have one row per 4 ids"));
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = ids, .group = 0}),
                        "embedding: group must be positive, found 0");
  }
}

TEST_CASE("embedding of many ids, evenly spread, and one of them everywhere") {
  const std::int64_t rows = 2500, vocab = 700;
  const OwnedTensor even = random_ids({rows}, 4, vocab), padded = random_ids({rows}, 5, vocab),
                    one = zeros(DType::i64, {rows});
  for (std::int64_t i = 0; i < rows; ++i)
    if (i % 150 > 60) padded.as<std::int64_t>()[i] = 699;
  for (const TestContext& run : TestContext::all())
    for (const OwnedTensor* ids : {&even, &padded, &one}) {
      check_embedding(run, DType::f32, {rows, 4}, *ids, vocab);
      check_embedding(run, DType::bf16, {rows, 3}, *ids, vocab);
      check_embedding(run, DType::bf16, {rows, 132}, *ids, vocab);
    }
}

TEST_CASE("embedding_backward leaves rows alone that no id names") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor ids = random_ids({5}, 6, 3), dy = randn({5, 8}, 7, DType::f32),
                      dtable = unwritten(DType::f32, {9, 8});
    std::fill_n(dtable.as<float>(), 24, 0.f);
    run(EmbeddingBackward{.dtable = dtable, .dy = dy, .ids = ids, .accumulate = true});
    const OwnedTensor untouched = unwritten(DType::f32, {6, 8});
    REQUIRE(same_bits(slice(dtable.view(), 24, {6, 8}), untouched));
  }
}

TEST_CASE("embedding refuses ids outside the table and writes nothing") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor table = randn({5, 3}, 1, DType::f32), y = zeros(DType::f32, {2, 3}), ids = zeros(DType::i64, {2}),
                      dtable = unwritten(DType::f32, {5, 3});
    for (const std::int64_t wrong : {std::int64_t{5}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
      std::fill_n(ids.as<std::int64_t>(), 2, wrong);
      const std::string number = std::to_string(wrong);
      const std::string message =
          run.is_cpu() ? "ids[0] is " + number + ", expected 0 .. 4" : "an id is " + number + ", expected 0 .. 4";
      REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = ids}), "embedding: " + message);
      REQUIRE_THROWS_WITH(run(EmbeddingBackward{.dtable = dtable, .dy = y, .ids = ids}), Catch::EndsWith(message));
    }
    REQUIRE_CLOSE(y, std::vector<double>(6, 0), 0);
    if (!run.is_cpu()) REQUIRE_CLOSE(dtable, std::vector<double>(15, 0), 0);  // as if the id were not there
    const OwnedTensor short_ids = zeros(DType::i64, {1}), floats = zeros(DType::f32, {2});
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = short_ids}), Catch::Contains("one row"));
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = table, .ids = floats}), Catch::Contains("ids must be i64"));
  }
}
