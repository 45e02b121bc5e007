#include "kernels/layer_norm/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

constexpr float kEps = 1e-2f;  // large, so that a row of one value does not blow up its rounding errors

struct Expected {
  std::vector<double> y, mean, rstd, dx, dweight, dbias;
};

Expected layer_norm(const Shape& shape, const std::vector<double>& x, const std::vector<double>& weight,
                    const std::vector<double>& bias, const std::vector<double>& dy) {
  const auto rows = static_cast<std::size_t>(shape.rows()), width = static_cast<std::size_t>(shape.width());
  const double n = static_cast<double>(width);
  Expected out{std::vector<double>(x.size()), {}, {}, std::vector<double>(x.size()), std::vector<double>(width, 0),
               std::vector<double>(width, 0)};
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t at = row * width;
    double mean = 0, variance = 0, mean_g = 0, mean_gh = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[at + i] / n;
    for (std::size_t i = 0; i < width; ++i) variance += (x[at + i] - mean) * (x[at + i] - mean) / n;
    const double rstd = 1 / std::sqrt(variance + double{kEps});
    for (std::size_t i = 0; i < width; ++i) {
      const double g = dy[at + i] * weight[i], h = (x[at + i] - mean) * rstd;
      mean_g += g / n;
      mean_gh += g * h / n;
    }
    for (std::size_t i = 0; i < width; ++i) {
      const double h = (x[at + i] - mean) * rstd;
      out.y[at + i] = h * weight[i] + bias[i];
      out.dx[at + i] = rstd * (dy[at + i] * weight[i] - mean_g - h * mean_gh);
      out.dweight[i] += dy[at + i] * h;
      out.dbias[i] += dy[at + i];
    }
    out.mean.push_back(mean);
    out.rstd.push_back(rstd);
  }
  return out;
}

std::vector<double> twice(std::vector<double> x) {
  for (double& value : x) value *= 2;
  return x;
}

void check_layer_norm(const TestContext& run, DType dtype, const Shape& shape) {
  const DType wide = wide_of(dtype);
  const std::int64_t rows = shape.rows(), width = shape.width();
  const OwnedTensor x = randn(shape, 1, dtype, 2), weight = randn({width}, 2, wide), bias = randn({width}, 3, wide);
  const OwnedTensor dy = randn(shape, 4, dtype);
  const Expected expected = layer_norm(shape, values_of(x), values_of(weight), values_of(bias), values_of(dy));
  const double bound = 16 * tolerance(dtype, width), wide_bound = 16 * tolerance(wide, rows + width);

  const OwnedTensor y = unwritten(dtype, shape), again = unwritten(dtype, shape);
  const OwnedTensor mean = unwritten(wide, {rows}), rstd = unwritten(wide, {rows});
  run(LayerNorm{.y = y, .mean = mean, .rstd = rstd, .x = x, .weight = weight, .bias = bias, .eps = kEps});
  REQUIRE_CLOSE(y, expected.y, bound);
  REQUIRE_CLOSE(mean, expected.mean, wide_bound);
  REQUIRE_CLOSE(rstd, expected.rstd, wide_bound);
  run(LayerNorm{.y = again, .x = x, .weight = weight, .bias = bias, .eps = kEps});
  REQUIRE(same_bits(y, again));

  const OwnedTensor dx = unwritten(dtype, shape), dweight = unwritten(wide, {width}), dbias = unwritten(wide, {width});
  LayerNormBackward backward{
      .dx = dx, .dweight = dweight, .dbias = dbias, .dy = dy, .x = x, .mean = mean, .rstd = rstd, .weight = weight};
  run(backward);
  REQUIRE_CLOSE(dx, expected.dx, bound);
  REQUIRE_CLOSE(dweight, expected.dweight, wide_bound);
  REQUIRE_CLOSE(dbias, expected.dbias, wide_bound);
  const OwnedTensor dx2 = unwritten(dtype, shape), dweight2 = unwritten(wide, {width});
  backward.dx = dx2, backward.dweight = dweight2, backward.dbias = {};
  run(backward);
  REQUIRE(same_bits(dx, dx2));
  REQUIRE(same_bits(dweight, dweight2));
  backward.dx = {}, backward.dbias = dbias;
  backward.accumulate_dbias = true;
  run(backward);
  REQUIRE(same_bits(dweight, dweight2));
  REQUIRE_CLOSE(dbias, twice(expected.dbias), 2 * wide_bound);
  backward.accumulate_dweight = true;
  run(backward);
  REQUIRE_CLOSE(dweight2, twice(expected.dweight), 2 * wide_bound);
  backward.dx = dx2, backward.dweight = backward.dbias = {};
  run(backward);
  REQUIRE(same_bits(dx, dx2));
}

}  // namespace

TEST_CASE("layer_norm and its backward agree with loops in double") {
  for (const TestContext& run : TestContext::all()) {
    for (const auto& [dtype, shape] : awkward_operands(run)) check_layer_norm(run, dtype, shape);
    // More rows than blocks, and rows so wide that their sums do not fit into a block's memory at once.
    for (const Shape& shape : {Shape{1501, 8}, Shape{2, 6148}, Shape{2, 6147}})
      check_layer_norm(run, DType::f32, shape);
  }
}

TEST_CASE("layer_norm survives a mean far from zero") {
  for (const TestContext& run : TestContext::all()) {
    const Shape shape{3, 768};
    const OwnedTensor x = randn(shape, 1, DType::f32), y = unwritten(DType::f32, shape);
    for (std::int64_t i = 0; i < shape.count(); ++i) x.as<float>()[i] += 1000;
    const OwnedTensor weight = zeros(DType::f32, {768}), bias = zeros(DType::f32, {768});
    std::fill_n(weight.as<float>(), 768, 1.f);
    run(LayerNorm{.y = y, .x = x, .weight = weight, .bias = bias, .eps = kEps});
    const Expected expected =
        layer_norm(shape, values_of(x), values_of(weight), values_of(bias), std::vector<double>(3 * 768, 0));
    REQUIRE_CLOSE(y, expected.y, 1e-3);
  }
}

TEST_CASE("layer_norm keeps NaN in its row") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = randn({3, 33}, 1, DType::f32), y = unwritten(DType::f32, {3, 33});
    const OwnedTensor weight = randn({33}, 2, DType::f32), bias = randn({33}, 3, DType::f32);
    x.as<float>()[33 + 5] = std::nanf("");
    run(LayerNorm{.y = y, .x = x, .weight = weight, .bias = bias});
    for (int i = 0; i < 99; ++i) REQUIRE(std::isnan(y.as<float>()[i]) == (i / 33 == 1));
  }
}
