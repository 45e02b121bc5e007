// Weights packed into 12 bits a number, against the bf16 numbers that they hold.

#include "kernels/matmul/packed.h"

#include <bit>
#include <limits>

#include "kernels/matmul/matmul.h"
#include "kernels/moe/moe.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

// What a packed matrix says that stands at (row, column).
float at(const PackedMatrix& packed, std::int64_t row, std::int64_t column) {
  const std::int64_t half = column % 128 / 64, place = packed_place(column % 64);
  const std::uint8_t* block = packed.row(row) + column / 128 * PackedMatrix::kBlockBytes;
  float out = to_float(unpack(block[128 + place] >> 4 * half & 15, block[half * 64 + place])) * packed.scale[row];
  for (std::int64_t i = packed.first_outlier[row]; i < packed.first_outlier[row + 1]; ++i)
    if (packed.outliers[i].column == column) {
      REQUIRE(out == 0);
      out = packed.outliers[i].value;
    }
  return out;
}

void require_same_numbers(const ConstView& matrix) {
  const PackedWeights weights(matrix);
  for (std::int64_t row = 0; row < matrix.rows(); ++row)
    for (std::int64_t column = 0; column < matrix.width(); ++column) {
      CAPTURE(row, column);
      const float expected = to_float(matrix.as<bf16>()[row * matrix.width() + column]);
      REQUIRE(std::bit_cast<std::uint32_t>(at(weights.view(), row, column)) == std::bit_cast<std::uint32_t>(expected));
    }
}

}  // namespace

TEST_CASE("packing loses no number: normal ones, and every bf16 that there is but NaN") {
  for (const std::int64_t width : {1, 63, 64, 128, 200}) require_same_numbers(randn({5, width}, 3, DType::bf16, 0.02));
  const OwnedTensor all = zeros(DType::bf16, {256, 256});
  for (std::int64_t i = 0; i < all.view().count(); ++i) {
    const bf16 value{static_cast<std::uint16_t>(i)};
    const bool is_nan = (value.bits & 0x7fff) > 0x7f80;
    all.as<bf16>()[i % 256 * 256 + i / 256] = is_nan ? bf16{} : value;  // rows of all magnitudes
  }
  require_same_numbers(all);
  const OwnedTensor small = randn({64, 768}, 4, DType::bf16, 0.02);
  const PackedMatrix packed = PackedWeights(small).view();
  REQUIRE(packed.bytes() == 64 * 768 * 3 / 2);
}

TEST_CASE("matmul with packed weights is matmul with what they hold, without reading the plain ones") {
  const TestContext cpu;
  for (const auto& [m, n, k] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1},
                                {1, 33, 96},
                                {1, 9, 2432},
                                {2, 7, 129},
                                {3, 5, 768},
                                {4, 65, 300},
                                {4, 2, 2432}})
    for (const DType dtype : {DType::bf16, DType::f32})
      for (const bool accumulate : {false, true}) {
        CAPTURE(m, n, k, name_of(dtype), accumulate);
        const OwnedTensor a = randn({m, k}, 1, DType::bf16), b = randn({n, k}, 2, DType::bf16),
                          bias = randn({n}, 3, DType::f32),
                          c = accumulate ? randn({m, n}, 4, dtype) : unwritten(dtype, {m, n});
        b.as<bf16>()[n * k - 1] = round_to<bf16>(1e-9f);  // an outlier
        b.as<bf16>()[0] = round_to<bf16>(-300.f);         // and a row in which most numbers are
        const PackedWeights weights(b);
        std::vector<double> expected = accumulate ? values_of(c) : std::vector<double>(static_cast<std::size_t>(m * n));
        const std::vector<double> x = values_of(a), w = values_of(b), offset = values_of(bias);
        for (std::int64_t i = 0; i < m * n; ++i) {
          double& sum = expected[static_cast<std::size_t>(i)];
          sum += offset[static_cast<std::size_t>(i % n)];
          for (std::int64_t j = 0; j < k; ++j)
            sum += x[static_cast<std::size_t>(i / n * k + j)] * w[static_cast<std::size_t>(i % n * k + j)];
        }
        const OwnedTensor nothing = unwritten(DType::bf16, {n, k});
        cpu(Matmul{.c = c,
                   .a = a,
                   .b = nothing,
                   .bias = bias,
                   .b_packed = weights.view(),
                   .transpose_b = true,
                   .accumulate = accumulate});
        // Terms of size 1, but for those of the row with 300.
        REQUIRE_CLOSE(c, expected, 300 * tolerance(DType::f32, k) + tolerance(dtype));
      }
}

TEST_CASE("grouped_matmul with packed weights, a group of them empty and one of many rows") {
  const TestContext cpu;
  const std::int64_t n = 13, k = 21;
  const OwnedTensor a = randn({8, k}, 3, DType::bf16), b = randn({3 * n, k}, 4, DType::bf16),
                    offset = zeros(DType::i64, {4}), c = zeros(DType::bf16, {8, n}),
                    expected = zeros(DType::bf16, {8, n});
  for (const auto& [group, end] : {std::pair(1, 6), {2, 6}, {3, 8}}) offset.as<std::int64_t>()[group] = end;
  const PackedWeights weights(b);
  cpu(GroupedMatmul{.c = expected, .a = a, .b = b, .offset = offset});
  cpu(GroupedMatmul{.c = c, .a = a, .b = b, .offset = offset, .b_packed = weights.view()});
  REQUIRE_CLOSE(c, values_of(expected), 2 * tolerance(DType::bf16));
}

TEST_CASE("packed weights of another shape or beside other operands are refused") {
  const TestContext cpu;
  const OwnedTensor b = randn({3, 4}, 1, DType::bf16), a = randn({2, 4}, 2, DType::bf16),
                    c = zeros(DType::bf16, {2, 3}), wide = randn({2, 4}, 2, DType::f32),
                    wide_b = randn({3, 4}, 1, DType::f32), wide_c = zeros(DType::f32, {2, 3});
  const PackedWeights weights(b), two(slice(ConstView(b), 0, {2, 4}));
  REQUIRE_THROWS_WITH(cpu(Matmul{.c = c, .a = a, .b = b, .b_packed = two.view(), .transpose_b = true}),
                      Catch::Contains("b_packed must be b of bf16"));
  REQUIRE_THROWS_WITH(cpu(Matmul{.c = wide_c, .a = wide, .b = wide_b, .b_packed = weights.view(), .transpose_b = true}),
                      Catch::Contains("b_packed must be b of bf16"));
}

}  // namespace omni
