#include "kernels/adamw/adamw.h"

#include <cmath>
#include <limits>

#include "tests/support/numbers.h"

using namespace omni;

TEST_CASE("adamw follows its formula over several steps") {
  for (const TestContext& run : TestContext::all())
    for (const std::int64_t count : {1, 7, 31, 33, 1023, 40001}) {
      const Shape shape{count};
      const OwnedTensor p = randn(shape, 1, DType::f32), m = zeros(DType::f32, shape), v = zeros(DType::f32, shape);
      const OwnedTensor copy = unwritten(DType::bf16, shape), scale = zeros(DType::f32, {1});
      *scale.as<float>() = 0.5f;
      auto expected = values_of(p);
      std::vector<double> m1(expected.size(), 0), m2(expected.size(), 0);
      const double rate = 1e-2, decay = 0.1;
      for (std::int64_t step = 1; step <= 5; ++step) {
        const OwnedTensor g = randn(shape, static_cast<std::uint64_t>(10 + step), DType::f32);
        const auto gs = values_of(g);
        run(AdamW{.parameter = p,
                  .moment1 = m,
                  .moment2 = v,
                  .copy = copy,
                  .gradient = g,
                  .gradient_scale = scale,
                  .learning_rate = rate,
                  .weight_decay = decay,
                  .step = step});
        const double t = static_cast<double>(step);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const double x = 0.5 * gs[i];
          expected[i] *= 1 - rate * decay;
          m1[i] = 0.9 * m1[i] + 0.1 * x;
          m2[i] = 0.999 * m2[i] + 0.001 * x * x;
          expected[i] -= rate * (m1[i] / (1 - std::pow(0.9, t))) / (std::sqrt(m2[i] / (1 - std::pow(0.999, t))) + 1e-8);
        }
      }
      REQUIRE_CLOSE(p, expected, 4e-6);
      REQUIRE_CLOSE(m, m1, 1e-6);
      REQUIRE_CLOSE(v, m2, 1e-6);
      const auto rounded = values_of(copy), exact = values_of(p);
      for (std::size_t i = 0; i < exact.size(); ++i)
        REQUIRE(rounded[i] == double{to_float(round_to<bf16>(static_cast<float>(exact[i])))});
    }
}

TEST_CASE("adamw without copy and scale; a zero gradient decays, NaN shows") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor p = randn({33}, 1, DType::f32), q = randn({33}, 1, DType::f32), g = zeros(DType::f32, {33});
    const OwnedTensor m = zeros(DType::f32, {33}), v = zeros(DType::f32, {33}), m2 = zeros(DType::f32, {33}),
                      v2 = zeros(DType::f32, {33});
    auto expected = values_of(p);
    for (double& value : expected) value *= 1 - 1e-2 * 0.01;
    const AdamW op{.parameter = p, .moment1 = m, .moment2 = v, .gradient = g, .learning_rate = 1e-2};
    run(op);
    REQUIRE_CLOSE(p, expected, tolerance(DType::f32));
    AdamW again = op;
    again.parameter = q, again.moment1 = m2, again.moment2 = v2;
    run(again);
    REQUIRE(same_bits(p, q));
    g.as<float>()[3] = std::nanf("");
    run(op);
    for (int i = 0; i < 33; ++i) REQUIRE(std::isnan(p.as<float>()[i]) == (i == 3));
    again.step = 0;
    REQUIRE_THROWS_WITH(run(again), "adamw: step is counted from 1, found 0");
  }
}

TEST_CASE("adamw does nothing if the gradient's scale is not finite") {
  for (const TestContext& run : TestContext::all())
    for (const float wrong : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      const Shape shape{1027};
      const OwnedTensor p = randn(shape, 1, DType::f32), m = randn(shape, 2, DType::f32),
                        v = unwritten(DType::f32, shape), copy = unwritten(DType::bf16, shape),
                        g = randn(shape, 3, DType::f32), scale = zeros(DType::f32, {1});
      *scale.as<float>() = wrong;
      run(AdamW{.parameter = p,
                .moment1 = m,
                .moment2 = v,
                .copy = copy,
                .gradient = g,
                .gradient_scale = scale,
                .learning_rate = 1e-2});
      REQUIRE(same_bits(p, randn(shape, 1, DType::f32)));
      REQUIRE(same_bits(m, randn(shape, 2, DType::f32)));
      REQUIRE(same_bits(v, unwritten(DType::f32, shape)));
      REQUIRE(same_bits(copy, unwritten(DType::bf16, shape)));
    }
}
