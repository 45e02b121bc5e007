#include "kernels/elementwise/elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

template <class Function>
std::vector<double> map(const std::vector<double>& x, const Function& function) {
  std::vector<double> out;
  for (std::size_t i = 0; i < x.size(); ++i) out.push_back(function(i));
  return out;
}

}  // namespace

TEST_CASE("fill, copy, add and scale agree with loops in double") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const OwnedTensor a = randn(shape, 1, dtype), b = randn(shape, 2, dtype), y = unwritten(dtype, shape);
      const auto x1 = values_of(a), x2 = values_of(b);
      run(Fill{.y = y, .value = 0.375});
      REQUIRE_CLOSE(y, map(x1, [](std::size_t) { return 0.375; }), 0);
      run(Copy{.y = y, .x = a});
      REQUIRE(same_bits(y, a));
      run(Add{.y = y, .a = a, .b = b});
      const auto sum = map(x1, [&](std::size_t i) { return x1[i] + x2[i]; });
      REQUIRE_CLOSE(y, sum, tolerance(dtype));
      run(Scale{.y = y, .x = a, .factor = -2.5});
      REQUIRE_CLOSE(y, map(x1, [&](std::size_t i) { return -2.5 * x1[i]; }), tolerance(dtype));
      run(Add{.y = a, .a = a, .b = b});  // in place
      REQUIRE_CLOSE(a, sum, tolerance(dtype));
    }
}

TEST_CASE("copy converts between all floating-point dtypes") {
  const Shape shape{17, 1023};
  for (const TestContext& run : TestContext::all()) {
    for (const DType from : run.dtypes())
      for (const DType to : run.dtypes()) {
        const OwnedTensor x = randn(shape, 3, from), y = unwritten(to, {1023, 17});
        run(Copy{.y = y, .x = x});
        const bool exact = to == DType::f64 || from == DType::bf16 || from == to;
        REQUIRE_CLOSE(y, values_of(x), exact ? 0 : tolerance(to));
      }
    // Halfway cases go to the even neighbour; NaN and infinity stay.
    const OwnedTensor x = zeros(DType::f32, {5}), y = unwritten(DType::bf16, {5});
    const float special[] = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()};
    std::copy_n(special, 5, x.as<float>());
    run(Copy{.y = y, .x = x});
    const auto rounded = values_of(y);
    REQUIRE(rounded[0] == 1);
    REQUIRE(rounded[1] == 1 + 0x1p-6);
    REQUIRE(std::isinf(rounded[2]));
    REQUIRE(std::isnan(rounded[3]));
    REQUIRE(std::isinf(rounded[4]));
  }
}

TEST_CASE("copy moves integers, and refuses to convert them") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = random_ids({40001}, 4, 1000), y = unwritten(DType::i64, {40001});
    run(Copy{.y = y, .x = x});
    REQUIRE(same_bits(x, y));
    const OwnedTensor f = zeros(DType::f32, {40001});
    REQUIRE_THROWS_WITH(run(Copy{.y = f, .x = x}), "copy: cannot convert i64 to f32");
    REQUIRE_THROWS_WITH(run(Copy{.y = zeros(DType::i64, {3}), .x = x}), Catch::Contains("equal counts"));
  }
}

TEST_CASE("scale by a scalar from memory") {
  for (const TestContext& run : TestContext::all()) {
    for (const DType dtype : run.dtypes())
      for (const DType factor_dtype : {DType::f32, dtype})
        for (const Shape& shape : {Shape{3, 33}, Shape{2, 1024}}) {
          const OwnedTensor x = randn(shape, 5, dtype), factor = zeros(factor_dtype, {1});
          const auto before = values_of(x);
          run(Fill{.y = factor, .value = 1});
          run(ScaleByScalar{.x = x, .factor = factor});
          REQUIRE_CLOSE(x, before, 0);
          run(Fill{.y = factor, .value = 0.3});
          run(ScaleByScalar{.x = x, .factor = factor});
          const double by = values_of(factor)[0];
          REQUIRE_CLOSE(x, map(before, [&](std::size_t i) { return by * before[i]; }), tolerance(dtype));
        }
    const OwnedTensor x = zeros(DType::f32, {3}), factor = zeros(DType::f64, {1});
    REQUIRE_THROWS_WITH(run(ScaleByScalar{.x = x, .factor = factor}),
                        Catch::Contains("factor must be one number of f32"));
  }
}

TEST_CASE("a bias and its gradient agree with loops in double") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const std::int64_t rows = shape.rows(), width = shape.width();
      const OwnedTensor x = randn(shape, 6, dtype), bias = randn({width}, 7, wide_of(dtype)),
                        y = unwritten(dtype, shape);
      const auto xs = values_of(x), biases = values_of(bias);
      run(AddBias{.y = y, .x = x, .bias = bias});
      REQUIRE_CLOSE(y, map(xs, [&](std::size_t i) { return xs[i] + biases[i % biases.size()]; }), tolerance(dtype));

      std::vector<double> sums(static_cast<std::size_t>(width), 0);
      for (std::size_t i = 0; i < xs.size(); ++i) sums[i % sums.size()] += xs[i];
      const OwnedTensor dbias = unwritten(wide_of(dtype), {width}), again = unwritten(wide_of(dtype), {width});
      run(BiasBackward{.dbias = dbias, .dy = x});
      REQUIRE_CLOSE(dbias, sums, tolerance(wide_of(dtype), rows));
      run(BiasBackward{.dbias = again, .dy = x});
      REQUIRE(same_bits(dbias, again));
      run(BiasBackward{.dbias = dbias, .dy = x, .accumulate = true});
      REQUIRE_CLOSE(dbias, map(sums, [&](std::size_t i) { return 2 * sums[i]; }), 2 * tolerance(wide_of(dtype), rows));
      run(AddBias{.y = x, .x = x, .bias = bias});  // in place
      REQUIRE(same_bits(x, y));
    }
}

TEST_CASE("the gradient of a bias over more rows than one block takes") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor dy = randn({2500, 4}, 8, DType::bf16), dbias = unwritten(DType::f32, {4});
    const auto values = values_of(dy);
    std::vector<double> sums(4, 0);
    for (std::size_t i = 0; i < values.size(); ++i) sums[i % 4] += values[i];
    run(BiasBackward{.dbias = dbias, .dy = dy});
    REQUIRE_CLOSE(dbias, sums, tolerance(DType::f32, 2500));
  }
}

TEST_CASE("instructions name the operand that does not fit") {
  const TestContext run;
  const OwnedTensor a(DType::f32, {2, 3}), b(DType::f32, {3, 2}), bias(DType::bf16, {3});
  REQUIRE_THROWS_WITH(run(Add{.y = a, .a = a, .b = b}),
                      "add: y, a, b must have one shape and dtype, found y f32 [2, 3], a f32 [2, 3], b f32 [3, 2]");
  REQUIRE_THROWS_WITH(run(Add{.y = a, .a = a, .b = {}}), Catch::Contains("b nothing"));
  REQUIRE_THROWS_WITH(run(AddBias{.y = a, .x = a, .bias = bias}), "add_bias: bias must be f32 [3], found bf16 [3]");
}

TEST_CASE("kernels on a GPU refuse f64") {
  for (const TestContext& run : TestContext::all()) {
    if (run.is_cpu()) continue;
    const OwnedTensor x = zeros(DType::f64, {3}), y = zeros(DType::f32, {3});
    REQUIRE_THROWS_WITH(run(Add{.y = x, .a = x, .b = x}), "no CUDA kernel computes on f64");
    REQUIRE_THROWS_WITH(run(Copy{.y = y, .x = x}), "no CUDA kernel computes on f64");
  }
}
