#include "kernels/cross_entropy/cross_entropy.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

struct Expected {
  double loss = 0;
  std::vector<double> gradient;
};

Expected cross_entropy(const std::vector<double>& logits, const std::int64_t* targets,
                       const std::vector<double>& weights, std::size_t rows, std::size_t classes) {
  Expected out{0, std::vector<double>(logits.size(), 0)};
  double counted = 0;
  for (std::size_t row = 0; row < rows; ++row) counted += targets[row] == -100 ? 0 : 1;
  for (std::size_t row = 0; row < rows; ++row) {
    if (targets[row] == -100) continue;
    const double weight = (weights.empty() ? 1 : weights[row]) / counted;
    const auto target = static_cast<std::size_t>(targets[row]);
    double sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += std::exp(logits[row * classes + c]);
    out.loss += weight * (std::log(sum) - logits[row * classes + target]);
    for (std::size_t c = 0; c < classes; ++c)
      out.gradient[row * classes + c] = weight * (std::exp(logits[row * classes + c]) / sum - (c == target ? 1 : 0));
  }
  return out;
}

OwnedTensor copy_of(const OwnedTensor& x) {
  OwnedTensor out(x.view().dtype, x.view().shape);
  std::memcpy(out.view().data, x.view().data, static_cast<std::size_t>(x.view().bytes()));
  return out;
}

}  // namespace

TEST_CASE("cross_entropy and its gradient agree with a loop in double") {
  const TestContext run;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Shape& shape : awkward_shapes())
      for (const bool weighted : {false, true}) {
        const DType wide = wide_of(dtype);
        const std::int64_t rows = shape.rows(), classes = shape.width();
        const OwnedTensor logits = randn(shape, 1, dtype, 4), targets = random_ids({rows}, 2, classes);
        const OwnedTensor weights = randn({rows}, 3, wide);
        for (std::int64_t row = 1; row < rows; row += 3) targets.as<std::int64_t>()[row] = -100;
        const Expected expected = cross_entropy(values_of(logits), targets.as<std::int64_t>(),
                                                weighted ? values_of(weights) : std::vector<double>(),
                                                static_cast<std::size_t>(rows), static_cast<std::size_t>(classes));
        const OwnedTensor loss = unwritten(wide, {1}), forward = copy_of(logits), again = copy_of(logits);
        CrossEntropy op{.loss = loss, .logits = forward, .targets = targets, .gradient = false};
        if (weighted) op.weights = weights;
        run(op);
        REQUIRE_CLOSE(loss, std::vector<double>{expected.loss}, 8 * tolerance(wide, classes));
        REQUIRE(same_bits(forward, logits));
        op.gradient = true;
        run(op);
        REQUIRE_CLOSE(loss, std::vector<double>{expected.loss}, 8 * tolerance(wide, classes));
        REQUIRE_CLOSE(forward, expected.gradient, tolerance(dtype, classes));
        op.logits = again;
        run(op);
        REQUIRE(same_bits(forward, again));
      }
}

TEST_CASE("cross_entropy of huge logits, of -infinity and of no targets") {
  const TestContext run;
  const float infinity = std::numeric_limits<float>::infinity();
  const OwnedTensor logits(DType::f32, {2, 3}), targets(DType::i64, {2}), loss = unwritten(DType::f32, {1});
  const float values[] = {1000, -1000, 1000, -infinity, 5, -infinity};
  std::copy_n(values, 6, logits.as<float>());
  targets.as<std::int64_t>()[1] = 1;
  run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
  REQUIRE_CLOSE(loss, std::vector<double>{std::log(2.) / 2}, 1e-4);  // at 1000 neighbouring floats lie 6e-5 apart
  REQUIRE_CLOSE(logits, (std::vector<double>{-0.25, 0, 0.25, 0, 0, 0}), 1e-6);

  std::fill_n(targets.as<std::int64_t>(), 2, -100);
  run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
  REQUIRE_CLOSE(loss, std::vector<double>{0}, 0);
  REQUIRE_CLOSE(logits, std::vector<double>(6, 0), 0);

  std::fill_n(targets.as<std::int64_t>(), 2, 0);
  logits.as<float>()[1] = std::nanf("");
  run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
  REQUIRE(std::isnan(*loss.as<float>()));
}

TEST_CASE("cross_entropy refuses a target that is no class") {
  const TestContext run;
  const OwnedTensor logits = randn({2, 3}, 1, DType::f32), targets(DType::i64, {2}), loss(DType::f32, {1});
  for (const std::int64_t wrong : {std::int64_t{3}, std::int64_t{-1}, INT64_MIN}) {
    targets.as<std::int64_t>()[1] = wrong;
    REQUIRE_THROWS_WITH(run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets}),
                        "cross_entropy: targets[1] is " + std::to_string(wrong) + ", expected 0 .. 2 or -100");
  }
  const OwnedTensor few(DType::i64, {1});
  REQUIRE_THROWS_WITH(run(CrossEntropy{.loss = loss, .logits = logits, .targets = few}),
                      Catch::Contains("one class per row"));
}
