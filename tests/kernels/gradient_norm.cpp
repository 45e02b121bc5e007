#include "kernels/gradient_norm/gradient_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("gradient_norm agrees with a sum in double, whatever the number of threads") {
  for (const std::int64_t count : {0, 1, 7, 1023, 4096, 4097, 100003}) {
    const OwnedTensor g = randn({count}, 1, DType::f32);
    double squares = 0;
    for (const double value : values_of(g)) squares += value * value;
    const double norm = std::sqrt(squares);
    for (const double max_norm : {1., 1e6, 0.}) {
      const OwnedTensor first = unwritten(DType::f32, {2});
      for (const int threads : {1, 2, 3}) {
        const TestContext run(threads);
        const OwnedTensor out = unwritten(DType::f32, {2});
        run(GradientNorm{.norm = view_of(out.as<float>(), {1}),
                         .scale = view_of(out.as<float>() + 1, {1}),
                         .gradient = g,
                         .max_norm = max_norm});
        const double scale = max_norm > 0 ? std::min(1., max_norm / (norm + 1e-6)) : 1;
        REQUIRE_CLOSE(out, (std::vector<double>{norm, scale}), tolerance(DType::f32));
        if (threads == 1) std::copy_n(out.as<float>(), 2, first.as<float>());
        REQUIRE(same_bits(out, first));
      }
    }
  }
}

TEST_CASE("gradient_norm passes NaN and infinity on") {
  const TestContext run;
  const OwnedTensor g = randn({5000}, 1, DType::f32), norm(DType::f32, {1}), scale(DType::f32, {1});
  const GradientNorm op{.norm = norm, .scale = scale, .gradient = g};
  g.as<float>()[4500] = std::numeric_limits<float>::infinity();
  run(op);
  REQUIRE(std::isinf(*norm.as<float>()));
  REQUIRE(*scale.as<float>() == 0);
  g.as<float>()[17] = std::nanf("");
  run(op);
  REQUIRE(std::isnan(*norm.as<float>()));
  REQUIRE(std::isnan(*scale.as<float>()));
}
