#include "kernels/gradient_norm/gradient_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("gradient_norm agrees with a sum in double, whatever the number of threads") {
  for (const std::int64_t count : {0, 1, 7, 1023, 4096, 4097, 16384, 100003}) {
    const OwnedTensor g = randn({count}, 1, DType::f32);
    double squares = 0;
    for (const double value : values_of(g)) squares += value * value;
    const double norm = std::sqrt(squares);
    for (const double max_norm : {1., 1e6, 0.}) {
      const double scale = max_norm > 0 ? std::min(1., max_norm / (norm + 1e-6)) : 1;
      const auto check = [&](const TestContext& run) {
        const OwnedTensor out_norm = unwritten(DType::f32, {1}), out_scale = unwritten(DType::f32, {1});
        run(GradientNorm{.norm = out_norm, .scale = out_scale, .gradient = g, .max_norm = max_norm});
        REQUIRE_CLOSE(out_norm, std::vector<double>{norm}, tolerance(DType::f32));
        REQUIRE_CLOSE(out_scale, std::vector<double>{scale}, tolerance(DType::f32));
        return std::pair(*out_norm.as<float>(), *out_scale.as<float>());
      };
      const auto one_thread = check(TestContext(1));
      for (const int threads : {2, 3}) REQUIRE(check(TestContext(threads)) == one_thread);
      for (const TestContext& run : TestContext::all()) REQUIRE(check(run) == check(run));
    }
  }
}

TEST_CASE("gradient_norm of values whose squares leave the range of f32") {
  for (const TestContext& run : TestContext::all())
    for (const double size : {1e-25, 1e-20, 1e-16, 1e14, 1e16, 3e19, 1e30}) {
      const OwnedTensor g = randn({1003}, 2, DType::f32, size), norm = unwritten(DType::f32, {1}),
                        scale = unwritten(DType::f32, {1});
      double squares = 0;
      for (const double value : values_of(g)) squares += value / size * (value / size);
      run(GradientNorm{.norm = norm, .scale = scale, .gradient = g});
      REQUIRE(std::fabs(double{*norm.as<float>()} / (size * std::sqrt(squares)) - 1) < tolerance(DType::f32));
    }
}

TEST_CASE("gradient_norm makes the scale NaN where the norm is not finite, clipping or not") {
  for (const TestContext& run : TestContext::all())
    for (const double max_norm : {1., 0.}) {
      const OwnedTensor g = randn({5000}, 1, DType::f32), norm = unwritten(DType::f32, {1}),
                        scale = unwritten(DType::f32, {1});
      const GradientNorm op{.norm = norm, .scale = scale, .gradient = g, .max_norm = max_norm};
      std::fill_n(g.as<float>() + 4000, 2, std::numeric_limits<float>::max());  // the norm is too large for f32
      run(op);
      REQUIRE(std::isinf(*norm.as<float>()));
      REQUIRE(std::isnan(*scale.as<float>()));
      g.as<float>()[4500] = -std::numeric_limits<float>::infinity();
      run(op);
      REQUIRE(std::isinf(*norm.as<float>()));
      REQUIRE(std::isnan(*scale.as<float>()));
      g.as<float>()[17] = std::nanf("");
      run(op);
      REQUIRE(std::isnan(*norm.as<float>()));
      REQUIRE(std::isnan(*scale.as<float>()));
    }
}
