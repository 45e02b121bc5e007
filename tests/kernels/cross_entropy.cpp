#include "kernels/cross_entropy/cross_entropy.h"

#include <algorithm>
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
  OwnedTensor out = zeros(x.view().dtype, x.view().shape);
  std::memcpy(out.view().data, x.view().data, static_cast<std::size_t>(x.view().bytes()));
  return out;
}

}  // namespace

TEST_CASE("cross_entropy and its gradient agree with a loop in double") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run))
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
        const OwnedTensor loss2 = unwritten(wide, {1});
        op.logits = again, op.loss = loss2;
        run(op);
        REQUIRE(same_bits(forward, again));
        REQUIRE(same_bits(loss, loss2));
      }
}

TEST_CASE("cross_entropy of huge logits, of -infinity and of no targets") {
  const float infinity = std::numeric_limits<float>::infinity(), lowest = std::numeric_limits<float>::lowest();
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor logits = zeros(DType::f32, {3, 3}), targets = zeros(DType::i64, {3}),
                      loss = unwritten(DType::f32, {1});
    const float values[] = {1000, -1000, 1000, -infinity, 5, -infinity, lowest, lowest, -infinity};
    std::copy_n(values, 9, logits.as<float>());
    targets.as<std::int64_t>()[1] = 1;
    run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    // At 1000 neighbouring floats lie 6e-5 apart. The third row is lost in the magnitude of its own logits.
    REQUIRE_CLOSE(logits, (std::vector<double>{-1. / 6, 0, 1. / 6, 0, 0, 0, -1. / 6, 1. / 6, 0}), 1e-6);
    targets.as<std::int64_t>()[2] = -100;
    std::copy_n(values, 9, logits.as<float>());
    run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    REQUIRE_CLOSE(loss, std::vector<double>{std::log(2.) / 2}, 1e-4);
    REQUIRE_CLOSE(logits, (std::vector<double>{-0.25, 0, 0.25, 0, 0, 0, 0, 0, 0}), 1e-6);

    std::fill_n(targets.as<std::int64_t>(), 3, -100);
    run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    REQUIRE_CLOSE(loss, std::vector<double>{0}, 0);
    REQUIRE_CLOSE(logits, std::vector<double>(9, 0), 0);

    std::fill_n(targets.as<std::int64_t>(), 3, 0);
    logits.as<float>()[1] = std::nanf("");
    run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    REQUIRE(std::isnan(*loss.as<float>()));
    for (int i = 0; i < 9; ++i) REQUIRE(std::isnan(logits.as<float>()[i]) == (i < 3));

    for (const float only : {infinity, -infinity}) {  // infinity minus infinity
      std::fill_n(logits.as<float>(), 9, 0.f);
      std::fill_n(logits.as<float>() + 3, 3, only);
      run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
      REQUIRE(std::isnan(*loss.as<float>()));
      for (int i = 0; i < 9; ++i) REQUIRE(std::isnan(logits.as<float>()[i]) == (i / 3 == 1));
    }
  }
}

TEST_CASE("cross_entropy tells where the target is the largest logit") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const DType wide = wide_of(dtype);
      const std::int64_t rows = shape.rows(), classes = shape.width();
      const OwnedTensor logits = randn(shape, 1, dtype, 4), targets = random_ids({rows}, 2, classes),
                        hits = unwritten(wide, {rows}), loss = unwritten(wide, {1});
      const std::vector<double> values = values_of(logits);
      std::vector<double> expected;
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto begin = values.begin() + row * classes, most = std::max_element(begin, begin + classes);
        std::int64_t& target = targets.as<std::int64_t>()[row];
        if (row % 2 == 0) target = most - begin;
        if (row % 5 == 4) target = -100;
        expected.push_back(target >= 0 && begin[target] == *most ? 1 : 0);
      }
      for (const bool gradient : {false, true}) {
        run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets, .hits = hits, .gradient = gradient});
        REQUIRE(values_of(hits) == expected);
      }
    }
}

TEST_CASE("cross_entropy of many rows") {
  for (const TestContext& run : TestContext::all()) {
    const std::int64_t rows = 2100, classes = 5;
    const OwnedTensor logits = randn({rows, classes}, 1, DType::f32), targets = random_ids({rows}, 2, classes);
    for (std::int64_t row = 1; row < rows; row += 3) targets.as<std::int64_t>()[row] = -100;
    const Expected expected = cross_entropy(values_of(logits), targets.as<std::int64_t>(), {}, rows, classes);
    const OwnedTensor loss = unwritten(DType::f32, {1});
    run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    REQUIRE_CLOSE(loss, std::vector<double>{expected.loss}, 8 * tolerance(DType::f32));
    REQUIRE_CLOSE(logits, expected.gradient, tolerance(DType::f32));
  }
}

TEST_CASE("cross_entropy in groups is that of each group alone") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const auto& [group_rows, classes] : {std::pair<std::int64_t, std::int64_t>{0, 5}, {1, 7}, {5, 33}, {7, 264}})
        for (const std::int64_t groups : {1, 2, 5, 8}) {
          const DType wide = wide_of(dtype);
          const std::int64_t rows = groups * group_rows;
          const OwnedTensor logits = randn({rows, classes}, 1, dtype, 4), targets = random_ids({rows}, 2, classes),
                            weights = randn({rows}, 3, wide), one = copy_of(logits), losses = unwritten(wide, {groups});
          for (std::int64_t row = 0; row < rows; ++row)
            if (row % 3 == 1 || row / std::max<std::int64_t>(group_rows, 1) == 1)  // none counts in the second group
              targets.as<std::int64_t>()[row] = -100;
          run(CrossEntropy{.loss = losses, .logits = logits, .targets = targets, .weights = weights});
          for (std::int64_t g = 0; g < groups; ++g) {
            const Shape part{group_rows, classes};
            const OwnedTensor loss = unwritten(wide, {1}), part_logits = zeros(dtype, part);
            const View from = slice(one.view(), g * part.count(), part);
            if (part.count() > 0)
              std::memcpy(part_logits.view().data, from.data, static_cast<std::size_t>(from.bytes()));
            run(CrossEntropy{.loss = loss,
                             .logits = part_logits,
                             .targets = slice(targets.view(), g * group_rows, {group_rows}),
                             .weights = slice(weights.view(), g * group_rows, {group_rows})});
            REQUIRE(same_bits(slice(losses.view(), g, {1}), loss));
            REQUIRE(same_bits(slice(logits.view(), g * part.count(), part), part_logits));
          }
        }
}

TEST_CASE("cross_entropy refuses groups that do not divide the rows") {
  const TestContext run;
  const OwnedTensor logits = zeros(DType::f32, {5, 3}), targets = zeros(DType::i64, {5}), loss = zeros(DType::f32, {2});
  REQUIRE_THROWS_WITH(run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets}),
                      Catch::Contains("loss must hold one number for each of equal parts of the rows"));
}

TEST_CASE("cross_entropy refuses a target that is no class") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor logits = randn({2, 3}, 1, DType::f32), targets = zeros(DType::i64, {2}),
                      loss = zeros(DType::f32, {1});
    for (const std::int64_t wrong : {std::int64_t{3}, std::int64_t{-1}, INT64_MIN}) {
      targets.as<std::int64_t>()[1] = wrong;
      const std::string number = std::to_string(wrong);
      REQUIRE_THROWS_WITH(run(CrossEntropy{.loss = loss, .logits = logits, .targets = targets}),
                          run.is_cpu() ? "cross_entropy: targets[1] is " + number + ", expected 0 .. 2 or -100"
                                       : "cross_entropy: a target is " + number + ", expected 0 .. 2");
    }
    const OwnedTensor few = zeros(DType::i64, {1});
    REQUIRE_THROWS_WITH(run(CrossEntropy{.loss = loss, .logits = logits, .targets = few}),
                        Catch::Contains("one class per row"));
  }
}
