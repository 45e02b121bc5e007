#include "kernels/rms_norm/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

constexpr float kEps = 1e-5f;

struct Expected {
  std::vector<double> y, rstd, dx, dweight;
};

Expected rms_norm(const Shape& shape, const std::vector<double>& x, const std::vector<double>& weight,
                  const std::vector<double>& dy) {
  const auto rows = static_cast<std::size_t>(shape.rows()), width = static_cast<std::size_t>(shape.width());
  Expected out{std::vector<double>(x.size()), {}, std::vector<double>(x.size()), std::vector<double>(width, 0)};
  for (std::size_t row = 0; row < rows; ++row) {
    const double* h = &x[row * width];
    double squares = 0, product = 0;
    for (std::size_t i = 0; i < width; ++i) squares += h[i] * h[i];
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(width) + double{kEps});
    out.rstd.push_back(rstd);
    for (std::size_t i = 0; i < width; ++i) product += dy[row * width + i] * weight[i] * h[i] * rstd;
    for (std::size_t i = 0; i < width; ++i) {
      out.y[row * width + i] = h[i] * rstd * weight[i];
      out.dx[row * width + i] =
          rstd * (dy[row * width + i] * weight[i] - h[i] * rstd * product / static_cast<double>(width));
      out.dweight[i] += dy[row * width + i] * h[i] * rstd;
    }
  }
  return out;
}

std::vector<double> sum(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

void check_rms_norm(const TestContext& run, DType dtype, const Shape& shape) {
  const DType wide = wide_of(dtype);
  const std::int64_t rows = shape.rows(), width = shape.width();
  const OwnedTensor x = randn(shape, 1, dtype, 2), weight = randn({width}, 2, wide), dy = randn(shape, 3, dtype);
  const Expected expected = rms_norm(shape, values_of(x), values_of(weight), values_of(dy));
  const double bound = 8 * tolerance(dtype, width), sum_bound = 8 * tolerance(wide, rows + width);

  const OwnedTensor y = unwritten(dtype, shape), again = unwritten(dtype, shape), rstd = unwritten(wide, {rows});
  run(RmsNorm{.y = y, .rstd = rstd, .x = x, .weight = weight, .eps = kEps});
  REQUIRE_CLOSE(y, expected.y, bound);
  REQUIRE_CLOSE(rstd, expected.rstd, 8 * tolerance(wide, width));
  run(RmsNorm{.y = again, .x = x, .weight = weight, .eps = kEps});
  REQUIRE(same_bits(y, again));

  const OwnedTensor dx = unwritten(dtype, shape), dweight = unwritten(wide, {width});
  RmsNormBackward backward{.dx = dx, .dweight = dweight, .dy = dy, .x = x, .rstd = rstd, .weight = weight};
  run(backward);
  // A width of 1 divides by |x|, which may be small: the result is as large as 1 / |x|, and cancels.
  double dx_bound = bound;
  for (const double value : expected.rstd) dx_bound = std::max(dx_bound, bound * (1 + value));
  REQUIRE_CLOSE(dx, expected.dx, dx_bound);
  REQUIRE_CLOSE(dweight, expected.dweight, sum_bound);
  const OwnedTensor dx2 = unwritten(dtype, shape), dweight2 = unwritten(wide, {width});
  backward.dx = dx2, backward.dweight = dweight2;
  run(backward);
  REQUIRE(same_bits(dx, dx2));
  REQUIRE(same_bits(dweight, dweight2));

  const OwnedTensor before = randn(shape, 4, dtype);
  std::memcpy(dx2.view().data, before.view().data, static_cast<std::size_t>(before.view().bytes()));
  backward.accumulate = backward.accumulate_dx = true;
  run(backward);
  REQUIRE_CLOSE(dx2, sum(values_of(before), expected.dx), dx_bound);
  REQUIRE_CLOSE(dweight2, sum(expected.dweight, expected.dweight), 2 * sum_bound);
  backward.dx = {}, backward.accumulate = false;
  run(backward);
  REQUIRE(same_bits(dweight, dweight2));
  backward.dx = dx2, backward.dweight = {}, backward.accumulate_dx = false;
  run(backward);
  REQUIRE(same_bits(dx, dx2));
}

}  // namespace

TEST_CASE("rms_norm and its backward agree with loops in double") {
  for (const TestContext& run : TestContext::all()) {
    for (const auto& [dtype, shape] : awkward_operands(run)) check_rms_norm(run, dtype, shape);
    // More rows than blocks, and rows so wide that their sums do not fit into a block's memory at once.
    for (const Shape& shape : {Shape{1501, 8}, Shape{2, 12292}, Shape{2, 12289}})
      check_rms_norm(run, DType::f32, shape);
  }
}

TEST_CASE("add_rms_norm is an addition, rounded, and then the norm, bit for bit") {
  for (const TestContext& run : TestContext::all())
    for (const auto& [dtype, shape] : awkward_operands(run)) {
      const DType wide = wide_of(dtype);
      const OwnedTensor x = randn(shape, 1, dtype), residual = randn(shape, 2, dtype);
      const OwnedTensor weight = randn({shape.width()}, 3, wide);
      const OwnedTensor sum = unwritten(dtype, shape), y = unwritten(dtype, shape),
                        rstd = unwritten(wide, {shape.rows()});
      const AddRmsNorm op{
          .sum = sum, .y = y, .rstd = rstd, .x = x, .residual = residual, .weight = weight, .eps = kEps};
      run(op);
      const auto a = values_of(x), b = values_of(residual);
      REQUIRE_CLOSE(sum, ::sum(a, b), tolerance(dtype));
      const OwnedTensor y2 = unwritten(dtype, shape), rstd2 = unwritten(wide, {shape.rows()});
      run(RmsNorm{.y = y2, .rstd = rstd2, .x = sum, .weight = weight, .eps = kEps});
      REQUIRE(same_bits(y, y2));
      REQUIRE(same_bits(rstd, rstd2));

      AddRmsNorm in_place = op;
      in_place.rstd = {}, in_place.sum = x, in_place.y = y2;
      run(in_place);
      REQUIRE(same_bits(x, sum));
      REQUIRE(same_bits(y, y2));
      const OwnedTensor x2 = randn(shape, 1, dtype);
      in_place.x = x2, in_place.sum = residual, in_place.y = y2;
      run(in_place);
      REQUIRE(same_bits(residual, sum));
      REQUIRE(same_bits(y, y2));
    }
}

TEST_CASE("rms_norm keeps NaN in its row, and refuses a wrong weight") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor x = randn({3, 33}, 1, DType::f32), y = unwritten(DType::f32, {3, 33});
    const OwnedTensor weight = randn({33}, 2, DType::f32);
    x.as<float>()[33 + 5] = std::nanf("");
    run(RmsNorm{.y = y, .x = x, .weight = weight});
    for (int i = 0; i < 99; ++i) REQUIRE(std::isnan(y.as<float>()[i]) == (i / 33 == 1));
    const OwnedTensor wrong = randn({32}, 2, DType::f32);
    REQUIRE_THROWS_WITH(run(RmsNorm{.y = y, .x = x, .weight = wrong}),
                        "rms_norm: weight must be f32 [33], found f32 [32]");
  }
}
