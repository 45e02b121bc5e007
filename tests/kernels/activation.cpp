#include "kernels/activation/activation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/simd.h"
#include "tests/support/numbers.h"

using namespace omni;

namespace {

double gelu(double x, Gelu::Kind kind) {
  if (kind == Gelu::Kind::erf) return x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
  return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double silu(double x) { return x / (1 + std::exp(-x)); }

// Central differences of fourth order; their error is far below f32's.
template <class Function>
double slope(const Function& f, double x) {
  const double h = 1e-3;
  return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h);
}

template <class Forward, class Backward, class Function>
void check(const TestContext& run, const Forward& forward, const Backward& backward, const Function& f) {
  for (const auto& [dtype, shape] : awkward_operands(run)) {
    const OwnedTensor x = randn(shape, 1, dtype, 3), dy = randn(shape, 2, dtype);
    const OwnedTensor y = unwritten(dtype, shape), again = unwritten(dtype, shape), dx = unwritten(dtype, shape);
    std::vector<double> expected, d_expected;
    const auto xs = values_of(x), dys = values_of(dy);
    for (std::size_t i = 0; i < xs.size(); ++i) {
      expected.push_back(f(xs[i]));
      d_expected.push_back(dys[i] * slope(f, xs[i]));
    }
    forward(y, x);
    forward(again, x);
    REQUIRE_CLOSE(y, expected, tolerance(dtype));
    REQUIRE(same_bits(y, again));
    backward(dx, dy, x);
    REQUIRE_CLOSE(dx, d_expected, dtype == DType::f64 ? 1e-10 : 4 * tolerance(dtype));
    backward(dy, dy, x);  // in place
    REQUIRE(same_bits(dx, dy));
  }
}

}  // namespace

TEST_CASE("gelu and silu agree with the standard library in double") {
  for (const TestContext& run : TestContext::all()) {
    for (const Gelu::Kind kind : {Gelu::Kind::erf, Gelu::Kind::tanh})
      check(
          run, [&](const View& y, const View& x) { run(Gelu{.y = y, .x = x, .kind = kind}); },
          [&](const View& dx, const View& dy, const View& x) {
            run(GeluBackward{.dx = dx, .dy = dy, .x = x, .kind = kind});
          },
          [&](double x) { return gelu(x, kind); });
    check(
        run, [&](const View& y, const View& x) { run(Silu{.y = y, .x = x}); },
        [&](const View& dx, const View& dy, const View& x) { run(SiluBackward{.dx = dx, .dy = dy, .x = x}); }, silu);
  }
}

TEST_CASE("activations of extreme values, and of NaN") {
  const float values[] = {100, -100, 1e30f, -1e4f, std::nanf(""), 0};
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = zeros(DType::f32, {6}), y = unwritten(DType::f32, {6});
    std::copy_n(values, 6, x.as<float>());
    for (const Gelu::Kind kind : {Gelu::Kind::erf, Gelu::Kind::tanh}) {
      run(Gelu{.y = y, .x = x, .kind = kind});
      for (const int i : {0, 1, 2, 3, 5}) REQUIRE(y.as<float>()[i] == std::max(values[i], 0.f));
      REQUIRE(std::isnan(y.as<float>()[4]));
    }
    run(Silu{.y = x, .x = x});  // in place
    for (const int i : {0, 1, 2, 3, 5}) REQUIRE(std::fabs(x.as<float>()[i] - std::max(values[i], 0.f)) < 1e-36f);
    REQUIRE(std::isnan(x.as<float>()[4]));
  }
}

TEST_CASE("fast_exp is within 2 units in the last place, and right at the edges") {
  double worst = 0;
  for (float x = -87; x < 88.7f; x += 0.00137f) {
    const double exact = std::exp(double{x});
    const float nearest = static_cast<float>(exact);
    const double unit = double{std::nextafter(nearest, std::numeric_limits<float>::infinity())} - double{nearest};
    worst = std::max(worst, std::fabs(double{fast_exp(x)} - exact) / unit);
  }
  REQUIRE(worst < 2);
  const float infinity = std::numeric_limits<float>::infinity();
  REQUIRE(fast_exp(0.f) == 1);
  REQUIRE(fast_exp(-infinity) == 0);
  REQUIRE(fast_exp(-104.f) == 0);
  REQUIRE(fast_exp(-100.f) == std::exp(-100.f));  // subnormal
  REQUIRE(fast_exp(88.72f) < infinity);
  REQUIRE(fast_exp(88.73f) == infinity);
  REQUIRE(fast_exp(infinity) == infinity);
  REQUIRE(std::isnan(fast_exp(std::nanf(""))));
  REQUIRE(fast_exp(1.25) == std::exp(1.25));
}

TEST_CASE("fast_erf, and the maximum of a row") {
  for (float x = -7; x < 7; x += 0.00071f) REQUIRE(std::fabs(double{fast_erf(x)} - std::erf(double{x})) < 5e-7);
  REQUIRE(std::isnan(fast_erf(std::nanf(""))));
  for (const std::int64_t width : {1, 7, 31, 32, 33, 96, 1023}) {
    const OwnedTensor x = randn({width}, 5, DType::f32);
    REQUIRE(maximum(x.as<float>(), width) == *std::max_element(x.as<float>(), x.as<float>() + width));
  }
}
