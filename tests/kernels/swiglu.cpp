#include "kernels/swiglu/swiglu.h"

#include <algorithm>
#include <cmath>

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("swiglu and its backward agree with loops in double") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const Shape packed = shape.with_width(2 * shape.width());
      const OwnedTensor gate_up = randn(packed, 1, dtype, 3), dy = randn(shape, 2, dtype);
      const auto in = values_of(gate_up), dys = values_of(dy);
      std::vector<double> y_expected, d_expected(in.size());
      const auto width = static_cast<std::size_t>(shape.width());
      for (std::size_t i = 0; i < dys.size(); ++i) {
        const std::size_t at = i / width * 2 * width + i % width;
        const double g = in[at], u = in[at + width], s = 1 / (1 + std::exp(-g));
        y_expected.push_back(g * s * u);
        d_expected[at] = dys[i] * u * s * (1 + g * (1 - s));
        d_expected[at + width] = dys[i] * g * s;
      }
      const OwnedTensor y = unwritten(dtype, shape), again = unwritten(dtype, shape);
      run(SwiGlu{.y = y, .gate_up = gate_up});
      run(SwiGlu{.y = again, .gate_up = gate_up});
      REQUIRE_CLOSE(y, y_expected, tolerance(dtype));
      REQUIRE(same_bits(y, again));
      const OwnedTensor d = unwritten(dtype, packed);
      run(SwiGluBackward{.dgate_up = d, .dy = dy, .gate_up = gate_up});
      REQUIRE_CLOSE(d, d_expected, tolerance(dtype));
      run(SwiGluBackward{.dgate_up = gate_up, .dy = dy, .gate_up = gate_up});  // in place
      REQUIRE(same_bits(gate_up, d));
    }
}

TEST_CASE("swiglu of extreme gates") {
  const TestContext run;
  const OwnedTensor gate_up(DType::f32, {1, 8}), y = unwritten(DType::f32, {1, 4});
  const float values[] = {100, -100, std::nanf(""), 1e30f, 1, 1, 1, 2};
  std::copy_n(values, 8, gate_up.as<float>());
  run(SwiGlu{.y = y, .gate_up = gate_up});
  REQUIRE(y.as<float>()[0] == 100);
  REQUIRE(std::fabs(y.as<float>()[1]) < 1e-36f);
  REQUIRE(std::isnan(y.as<float>()[2]));
  REQUIRE(y.as<float>()[3] == 2e30f);
  const OwnedTensor odd(DType::f32, {1, 7}), scalar(DType::f32, Shape{});
  REQUIRE_THROWS_WITH(run(SwiGlu{.y = y, .gate_up = odd}), "swiglu: gate_up must be f32 [1, 8], found f32 [1, 7]");
  REQUIRE_THROWS_AS(run(SwiGlu{.y = scalar, .gate_up = odd}), std::invalid_argument);
}
