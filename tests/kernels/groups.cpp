#include "kernels/groups/groups.h"

#include "tests/support/numbers.h"

using namespace omni;

namespace {

Shape repeated(const Shape& shape, std::int64_t groups) { return {groups * shape.rows(), shape.width()}; }

// Every instruction against a loop, and again for the same bits.
void check_groups(const TestContext& run, DType dtype, const Shape& one, std::int64_t groups, double factor) {
  const Shape many = repeated(one, groups);
  const OwnedTensor x = randn(many, 1, dtype), z = randn(one, 2, dtype);
  const auto xs = values_of(x), zs = values_of(z);
  std::vector<double> sums(zs.size(), 0), copies, added;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    sums[i % zs.size()] += factor * xs[i];
    copies.push_back(factor * zs[i % zs.size()]);
    added.push_back(xs[i] + copies.back());
  }
  const OwnedTensor y = unwritten(dtype, one), again = unwritten(dtype, one);
  run(SumGroups{.y = y, .x = x, .groups = groups, .factor = factor});
  REQUIRE_CLOSE(y, sums, 2 * tolerance(dtype, groups));
  TestContext{1}(SumGroups{.y = again, .x = x, .groups = groups, .factor = factor});
  REQUIRE(same_bits(y, again));  // the order is part of the contract

  const OwnedTensor copy = unwritten(dtype, many);
  run(AddGroups{.y = copy, .x = z, .groups = groups, .factor = factor});
  REQUIRE_CLOSE(copy, copies, tolerance(dtype));
  run(AddGroups{.y = x, .x = z, .groups = groups, .factor = factor, .accumulate = true});
  REQUIRE_CLOSE(x, added, tolerance(dtype));

  const OwnedTensor factors = randn({groups}, 3, wide_of(dtype));
  run(ScaleGroups{.x = copy, .factor = factors});
  for (std::size_t i = 0; i < copies.size(); ++i) copies[i] *= values_of(factors)[i / zs.size()];
  REQUIRE_CLOSE(copy, copies, 3 * tolerance(dtype));
}

}  // namespace

TEST_CASE("sum_groups, add_groups and scale_groups agree with loops in double") {
  for (const TestContext& run : TestContext::all()) {
    for (const DType dtype : run.dtypes())
      for (const Shape& shape : {Shape{0, 7}, {1, 1}, {3, 7}, {17, 33}, {3, 96}, {2, 1023}})
        for (const std::int64_t groups : {1, 2, 3, 8, 9}) check_groups(run, dtype, shape, groups, 0.125);
    check_groups(run, DType::f32, {150, 257}, 3, 1);
    check_groups(run, DType::bf16, {150, 264}, 3, -0.5);
  }
}

TEST_CASE("sum_groups of bf16 rounds once, and NaN passes through") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = zeros(DType::bf16, {256, 1}), y = unwritten(DType::bf16, {1, 1});
    for (int g = 0; g < 256; ++g) x.as<bf16>()[g] = round_to<bf16>(g == 0 ? 256.f : 1.f);  // 256 + 1 is 256 in bf16
    run(SumGroups{.y = y, .x = x, .groups = 256});
    REQUIRE_CLOSE(y, std::vector<double>{512}, 0);
    const OwnedTensor nan = unwritten(DType::bf16, {1, 1});
    run(AddGroups{.y = x, .x = nan, .groups = 256});
    run(SumGroups{.y = y, .x = x, .groups = 256});
    REQUIRE(difference(values_of(y), {0}, 1) != "");
  }
}

TEST_CASE("scale_groups leaves groups alone whose factor is one") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = unwritten(DType::f32, {6, 4}), factor = zeros(DType::f32, {3}),
                      untouched = unwritten(DType::f32, {2, 4});
    std::fill_n(factor.as<float>(), 3, 1.f);
    factor.as<float>()[1] = 2;
    std::fill_n(x.as<float>() + 8, 8, 3.f);
    run(ScaleGroups{.x = x, .factor = factor});
    REQUIRE_CLOSE(slice(x.view(), 8, {2, 4}), std::vector<double>(8, 6), 0);
    for (const std::int64_t offset : {0, 16}) REQUIRE(same_bits(slice(x.view(), offset, {2, 4}), untouched));
  }
}

TEST_CASE("groups refuse rows that do not divide") {
  const TestContext run;
  const OwnedTensor x = zeros(DType::f32, {7, 4}), y = zeros(DType::f32, {3, 4}), factor = zeros(DType::f32, {2});
  REQUIRE_THROWS_WITH(run(SumGroups{.y = y, .x = x, .groups = 2}),
                      "sum_groups: x must be f32 with 6 rows of width 4, found f32 [7, 4]");
  REQUIRE_THROWS_WITH(run(AddGroups{.y = x, .x = y, .groups = 0}), "add_groups: groups must be positive, found 0");
  REQUIRE_THROWS_WITH(run(ScaleGroups{.x = x, .factor = factor}), Catch::Contains("equal parts of the rows"));
}
