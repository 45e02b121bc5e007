#include "kernels/scaled_sum/scaled_sum.h"

#include <cmath>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

struct Operands {
  OwnedTensor dy, a, b, a_scale, b_scale;
  Operands(DType dtype, const Shape& shape)
      : dy(randn(shape, 1, dtype)),
        a(randn(shape, 2, dtype)),
        b(randn(shape, 3, dtype)),
        a_scale(randn(Shape{}, 4, wide_of(dtype))),
        b_scale(randn(Shape{1}, 5, wide_of(dtype))) {}
  ScaledSumBackward backward() const { return {.dy = dy, .a = a, .a_scale = a_scale, .b = b, .b_scale = b_scale}; }
};

// The bound of a sum's error: relative to the sum of the terms' magnitudes.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) { value += term, magnitude += std::fabs(term); }
};

void check_sum(const OwnedTensor& actual, double expected, double magnitude, DType wide, std::int64_t count) {
  const double error = std::fabs(values_of(actual)[0] - expected);
  CAPTURE(values_of(actual)[0], expected, magnitude);
  REQUIRE(error <= tolerance(wide, count) * std::fmax(1, magnitude));
}

void check_scaled_sum(const TestContext& run, DType dtype, const Shape& shape) {
  const Operands in(dtype, shape);
  const DType wide = wide_of(dtype);
  const auto dy = values_of(in.dy), a = values_of(in.a), b = values_of(in.b);
  const double by_a = values_of(in.a_scale)[0], by_b = values_of(in.b_scale)[0];
  std::vector<double> y, da, db;
  Sum a_sum, b_sum;
  for (std::size_t i = 0; i < dy.size(); ++i) {
    y.push_back(by_a * a[i] + by_b * b[i]);
    da.push_back(by_a * dy[i]);
    db.push_back(by_b * dy[i]);
    a_sum.add(dy[i] * a[i]);
    b_sum.add(dy[i] * b[i]);
  }
  const OwnedTensor out = unwritten(dtype, shape), to_a = unwritten(dtype, shape), to_b = unwritten(dtype, shape);
  ScaledSum forward{.y = out, .a = in.a, .a_scale = in.a_scale, .b = in.b, .b_scale = in.b_scale};
  run(forward);
  REQUIRE_CLOSE(out, y, 4 * tolerance(dtype));

  const OwnedTensor to_a_scale = unwritten(wide, Shape{}), to_b_scale = unwritten(wide, Shape{1}),
                    again = unwritten(wide, Shape{});
  ScaledSumBackward backward = in.backward();
  backward.da = to_a, backward.db = to_b, backward.da_scale = to_a_scale, backward.db_scale = to_b_scale;
  run(backward);
  REQUIRE_CLOSE(to_a, da, 2 * tolerance(dtype));
  REQUIRE_CLOSE(to_b, db, 2 * tolerance(dtype));
  check_sum(to_a_scale, a_sum.value, a_sum.magnitude, wide, shape.count());
  check_sum(to_b_scale, b_sum.value, b_sum.magnitude, wide, shape.count());

  ScaledSumBackward alone = in.backward();  // one scale only: the same bits
  alone.da_scale = again;
  run(alone);
  REQUIRE(same_bits(again, to_a_scale));
  backward.accumulate_a_scale = true;
  run(backward);
  check_sum(to_a_scale, 2 * a_sum.value, 2 * a_sum.magnitude, wide, shape.count());
  check_sum(to_b_scale, b_sum.value, b_sum.magnitude, wide, shape.count());

  forward.y = in.a;  // in place
  run(forward);
  REQUIRE(same_bits(in.a, out));
  ScaledSumBackward in_place = in.backward();
  const OwnedTensor other = unwritten(dtype, shape), copy = randn(shape, 1, dtype);
  in_place.da = in.dy, in_place.db = other;
  run(in_place);
  REQUIRE(same_bits(in.dy, to_a));
  REQUIRE(same_bits(other, to_b));
  in_place.dy = copy, in_place.da = other, in_place.db = copy;
  run(in_place);
  REQUIRE(same_bits(other, to_a));
  REQUIRE(same_bits(copy, to_b));
}

}  // namespace

TEST_CASE("scaled_sum and its backward agree with loops in double") {
  for (const TestContext& run : TestContext::all()) {
    for (const auto& [dtype, shape] : awkward_operands(run)) check_scaled_sum(run, dtype, shape);
    for (const DType dtype : run.dtypes())
      for (const std::int64_t count : {4095, 4096, 8191, 8193, 16385}) check_scaled_sum(run, dtype, {count});
  }
}

TEST_CASE("scaled_sum's gradients do not depend on the number of threads") {
  const Shape shape{300, 257};
  const Operands in(DType::f32, shape);
  const OwnedTensor one = unwritten(DType::f32, Shape{}), many = unwritten(DType::f32, Shape{});
  ScaledSumBackward backward = in.backward();
  backward.da_scale = one;
  TestContext{1}(backward);
  backward.da_scale = many;
  TestContext{3}(backward);
  REQUIRE(same_bits(one, many));
}

TEST_CASE("scaled_sum passes NaN through and refuses scales of several numbers") {
  for (const TestContext& run : TestContext::all()) {
    const Operands in(DType::f32, {3, 5});
    in.a.as<float>()[14] = std::nanf("");
    const OwnedTensor y = unwritten(DType::f32, {3, 5}), sum = zeros(DType::f32, Shape{1}),
                      two = zeros(DType::f32, {2});
    run(ScaledSum{.y = y, .a = in.a, .a_scale = in.a_scale, .b = in.b, .b_scale = in.b_scale});
    for (int i = 0; i < 15; ++i) REQUIRE(std::isnan(y.as<float>()[i]) == (i == 14));
    ScaledSumBackward backward = in.backward();
    backward.da_scale = sum;
    run(backward);
    REQUIRE(std::isnan(*sum.as<float>()));
    REQUIRE_THROWS_WITH(run(ScaledSum{.y = y, .a = in.a, .a_scale = two, .b = in.b, .b_scale = in.b_scale}),
                        "scaled_sum: a_scale must be one number, found f32 [2]");
    backward.da_scale = two;
    REQUIRE_THROWS_WITH(run(backward), Catch::Contains("da_scale must be one number"));
  }
}
