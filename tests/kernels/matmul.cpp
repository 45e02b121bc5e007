#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/support/numbers.h"

namespace omni {
namespace {

// A matrix as doubles, element (i, j) of the untransposed meaning.
std::vector<double> expected_product(const Matmul& op, const std::vector<double>& before) {
  const auto a = values_of(op.a), b = values_of(op.b);
  const auto bias = op.bias ? values_of(op.bias) : std::vector<double>(static_cast<std::size_t>(op.n()), 0);
  std::vector<double> c(static_cast<std::size_t>(op.m() * op.n()));
  for (std::int64_t i = 0; i < op.m(); ++i)
    for (std::int64_t j = 0; j < op.n(); ++j) {
      double sum = bias[static_cast<std::size_t>(j)];
      for (std::int64_t k = 0; k < op.k(); ++k)
        sum += a[static_cast<std::size_t>(op.transpose_a ? k * op.m() + i : i * op.k() + k)] *
               b[static_cast<std::size_t>(op.transpose_b ? j * op.k() + k : k * op.n() + j)];
      const std::size_t at = static_cast<std::size_t>(i * op.n() + j);
      c[at] = sum + (op.accumulate ? before[at] : 0);
    }
  return c;
}

struct Case {
  std::int64_t m, n, k;
  DType operands, result;
};

void check_case(const TestContext& context, const Case& size, bool transpose_a, bool transpose_b, bool accumulate,
                bool with_bias) {
  const auto [m, n, k, operands, result] = size;
  CAPTURE(context.is_cpu(), m, n, k, name_of(operands), name_of(result), transpose_a, transpose_b, accumulate,
          with_bias);
  const OwnedTensor a = randn(transpose_a ? Shape{k, m} : Shape{m, k}, 1, operands);
  const OwnedTensor b = randn(transpose_b ? Shape{n, k} : Shape{k, n}, 2, operands);
  const OwnedTensor bias = randn({n}, 3, wide_of(operands));
  const OwnedTensor c = accumulate ? randn({m, n}, 4, result) : unwritten(result, {m, n});
  const Matmul op{.c = c,
                  .a = a,
                  .b = b,
                  .bias = with_bias ? ConstView(bias) : ConstView(),
                  .transpose_a = transpose_a,
                  .transpose_b = transpose_b,
                  .accumulate = accumulate};
  const std::vector<double> expected = expected_product(op, values_of(c));
  context(op);
  // The sum of k products of standard normal numbers is of size sqrt(k).
  REQUIRE_CLOSE(c, expected, tolerance(result, k) * std::max(1.0, std::sqrt(static_cast<double>(k))));
}

}  // namespace

TEST_CASE("matmul agrees with a loop in double, for all transposes, at odd sizes") {
  for (const auto& [operands, result] : {std::pair{DType::f32, DType::f32},
                                         {DType::bf16, DType::bf16},
                                         {DType::bf16, DType::f32},
                                         {DType::f64, DType::f64}})
    for (const auto& [m, n, k] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1},
                                  {1, 33, 96},
                                  {2, 7, 31},
                                  {3, 5, 17},
                                  {4, 65, 100},
                                  {5, 3, 2},
                                  {4, 5, 0},
                                  {33, 5, 0},
                                  {17, 31, 33},
                                  {64, 48, 80}})
      for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true})
          for (const bool accumulate : {false, true})
            for (const TestContext& context : TestContext::all())
              if (context.is_cpu() || operands != DType::f64)
                check_case(context, {m, n, k, operands, result}, transpose_a, transpose_b, accumulate, m % 2 == 0);
}

TEST_CASE("matmul of few rows by many columns, which a processor without products of bf16 makes in several parts") {
  for (const DType result : {DType::bf16, DType::f32})
    for (const bool accumulate : {false, true})
      for (const TestContext& context : TestContext::all())
        for (const bool transpose_b : {false, true})
          check_case(context, {6, 700, 431, DType::bf16, result}, false, transpose_b, accumulate, true);
}

// Large enough for the CPU to split numbers of f32 into parts (kernels/matmul/amx.h), at sizes that no block divides.
TEST_CASE("matmul of large f32 matrices agrees with doubles") {
  const TestContext context;
  const auto widened = [&](const OwnedTensor& x) {
    OwnedTensor wide(DType::f64, x.view().shape);
    const std::vector<double> values = values_of(x);
    std::copy(values.begin(), values.end(), wide.as<double>());
    return wide;
  };
  struct Size {
    std::int64_t m, n, k;
  };
  // Blocks of rows, of columns and of the depth; and less than a block of it.
  for (const auto& [m, n, k] : {Size{515, 522, 70}, Size{300, 2085, 40}, Size{515, 522, 801}, Size{515, 522, 5}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true}) {
        if (k > 100 && (transpose_a || !transpose_b)) continue;  // the loop in double takes long
        CAPTURE(m, n, k, transpose_a, transpose_b);
        const OwnedTensor a = randn(transpose_a ? Shape{k, m} : Shape{m, k}, 1, DType::f32);
        const OwnedTensor b = randn(transpose_b ? Shape{n, k} : Shape{k, n}, 2, DType::f32);
        const OwnedTensor bias = randn({n}, 3, DType::f32), c = randn({m, n}, 4, DType::f32);
        const OwnedTensor wide_a = widened(a), wide_b = widened(b), wide_bias = widened(bias), wide_c = widened(c);
        const auto multiply = [&](const View& to, const ConstView& x, const ConstView& y, const ConstView& z) {
          context(Matmul{.c = to,
                         .a = x,
                         .b = y,
                         .bias = transpose_b ? z : ConstView(),
                         .transpose_a = transpose_a,
                         .transpose_b = transpose_b,
                         .accumulate = transpose_a});
        };
        multiply(c, a, b, bias);
        multiply(wide_c, wide_a, wide_b, wide_bias);
        REQUIRE_CLOSE(c, values_of(wide_c), tolerance(DType::f32, k) * std::sqrt(static_cast<double>(k)));
      }
}

TEST_CASE("matmul by the identity loses no bit, and keeps what is not finite to its row") {
  const TestContext context;
  constexpr std::int64_t size = 520;
  const OwnedTensor identity = zeros(DType::f32, {size, size}), c = unwritten(DType::f32, {size, size});
  for (std::int64_t i = 0; i < size; ++i) identity.as<float>()[i * size + i] = 1;
  const OwnedTensor x = randn({size, size}, 5, DType::f32);
  for (const bool transposed : {false, true}) {
    context(Matmul{.c = c, .a = x, .b = identity, .transpose_b = transposed});
    REQUIRE(same_bits(c, x));
    context(Matmul{.c = c, .a = identity, .b = x, .transpose_a = transposed});
    REQUIRE(same_bits(c, x));
  }
  for (const std::uint32_t bits : {0x7fc00000u, 0x7fffffffu, 0xffffffffu, 0x7f800001u, 0x7f800000u, 0xff800000u}) {
    x.as<float>()[3 * size + 7] = std::bit_cast<float>(bits);
    context(Matmul{.c = c, .a = x, .b = identity});
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < size * size; ++i) wrong += std::isfinite(c.as<float>()[i]) == (i / size == 3);
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("matmul gives the same bits twice") {
  for (const TestContext& context : TestContext::all()) {
    const OwnedTensor a = randn({37, 129}, 1, DType::f32), b = randn({65, 129}, 2, DType::f32);
    const OwnedTensor first = unwritten(DType::f32, {37, 65}), second = unwritten(DType::f32, {37, 65});
    for (const OwnedTensor* c : {&first, &second}) context(Matmul{.c = *c, .a = a, .b = b, .transpose_b = true});
    REQUIRE(same_bits(first, second));
  }
}

TEST_CASE("matmul refuses operands that do not fit, by name") {
  const TestContext context;
  const OwnedTensor a = randn({3, 4}, 1), b = randn({5, 4}, 2), c = randn({3, 5}, 3), bias = randn({4}, 4);
  const Matmul right{.c = c, .a = a, .b = b, .transpose_b = true};
  REQUIRE_NOTHROW(context(right));
  Matmul op = right;
  op.transpose_b = false;
  REQUIRE_THROWS_WITH(context(op), Catch::Contains("matmul: b must be f64 with 4 rows of width 5"));
  op = right;
  op.bias = bias;
  REQUIRE_THROWS_WITH(context(op), Catch::Contains("bias must be f64 [5]"));
  op = right;
  op.a = {};
  REQUIRE_THROWS_WITH(context(op), Catch::Contains("needed"));
}

}  // namespace omni
