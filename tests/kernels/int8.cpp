// Instructions that read weights in i8, with a scale for each row, against the same instructions on the weights that
// these stand for.

#include "kernels/embedding/embedding.h"
#include "kernels/matmul/matmul.h"
#include "kernels/moe/moe.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

struct Weights {
  OwnedTensor values, scale, plain;  // i8 [rows, width], f32 [rows], their product in f64

  Weights(std::int64_t rows, std::int64_t width, std::uint64_t seed)
      : values(zeros(DType::i8, {rows, width})),
        scale(randn({rows}, seed, DType::f32, 0.01)),
        plain(zeros(DType::f64, {rows, width})) {
    const OwnedTensor whole = random_ids({rows, width}, seed + 1, 255);
    for (std::int64_t i = 0; i < rows * width; ++i) {
      const std::int64_t value = whole.as<std::int64_t>()[i] - 127;  // -127 .. 127
      values.as<std::int8_t>()[i] = static_cast<std::int8_t>(value);
      plain.as<double>()[i] = static_cast<double>(value) * static_cast<double>(scale.as<float>()[i / width]);
    }
  }
};

OwnedTensor widened(const OwnedTensor& x) {
  OwnedTensor out = zeros(DType::f64, x.view().shape);
  const std::vector<double> values = values_of(x);
  std::copy(values.begin(), values.end(), out.as<double>());
  return out;
}

}  // namespace

TEST_CASE("matmul with weights in i8 is matmul with what they stand for") {
  const TestContext cpu;
  for (const auto& [m, n, k] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 1},
                                {1, 33, 96},
                                {2, 7, 31},
                                {3, 5, 17},
                                {4, 65, 100},
                                {6, 3, 16},
                                {19, 70, 33}})
    for (const bool accumulate : {false, true}) {
      CAPTURE(m, n, k, accumulate);
      const Weights w(n, k, 1);
      const OwnedTensor a = randn({m, k}, 3, DType::f32), bias = randn({n}, 4, DType::f32),
                        c = accumulate ? randn({m, n}, 5, DType::f32) : unwritten(DType::f32, {m, n});
      const OwnedTensor expected = widened(c), wide_a = widened(a), wide_bias = widened(bias);
      cpu(Matmul{
          .c = expected, .a = wide_a, .b = w.plain, .bias = wide_bias, .transpose_b = true, .accumulate = accumulate});
      cpu(Matmul{.c = c,
                 .a = a,
                 .b = w.values,
                 .bias = bias,
                 .b_scale = w.scale,
                 .transpose_b = true,
                 .accumulate = accumulate});
      REQUIRE_CLOSE(c, values_of(expected), 1e-5);
    }
}

TEST_CASE("grouped_matmul with weights in i8, a group of them empty") {
  const TestContext cpu;
  const std::int64_t n = 13, k = 21;
  const Weights w(3 * n, k, 1);
  const OwnedTensor a = randn({8, k}, 3, DType::f32), wide_a = widened(a), offset = zeros(DType::i64, {4}),
                    c = zeros(DType::f32, {8, n}), expected = zeros(DType::f64, {8, n});
  for (const auto& [group, end] : {std::pair(1, 6), {2, 6}, {3, 8}}) offset.as<std::int64_t>()[group] = end;
  cpu(GroupedMatmul{.c = expected, .a = wide_a, .b = w.plain, .offset = offset});
  cpu(GroupedMatmul{.c = c, .a = a, .b = w.values, .offset = offset, .b_scale = w.scale});
  REQUIRE_CLOSE(c, values_of(expected), 1e-5);
}

TEST_CASE("embedding from a table in i8, one id per row and several") {
  const TestContext cpu;
  for (const std::int64_t group : {1, 8}) {
    const Weights table(29, 17, 1);
    const OwnedTensor ids = random_ids({5 * group}, 3, 29), y = unwritten(DType::f32, {5, 17}),
                      expected = unwritten(DType::f64, {5, 17});
    const double factor = 1 / static_cast<double>(group);
    cpu(Embedding{.y = expected, .table = table.plain, .ids = ids, .group = group, .factor = factor});
    cpu(Embedding{
        .y = y, .table = table.values, .ids = ids, .table_scale = table.scale, .group = group, .factor = factor});
    REQUIRE_CLOSE(y, values_of(expected), 1e-6);
  }
}

TEST_CASE("weights in i8 without their scale, or beside other operands than f32, are refused") {
  const TestContext cpu;
  const Weights w(3, 4, 1);
  const OwnedTensor a = randn({2, 4}, 3, DType::f32), c = zeros(DType::f32, {2, 3}), ids = zeros(DType::i64, {2}),
                    a16 = randn({2, 4}, 3, DType::bf16), c16 = zeros(DType::bf16, {2, 3}),
                    y = zeros(DType::f32, {2, 4});
  REQUIRE_THROWS_WITH(cpu(Matmul{.c = c, .a = a, .b = w.values, .transpose_b = true}),
                      Catch::Contains("b must be f32"));
  REQUIRE_THROWS_WITH(cpu(Matmul{.c = c16, .a = a16, .b = w.values, .b_scale = w.scale, .transpose_b = true}),
                      Catch::Contains("b of i8 needs a of f32"));
  REQUIRE_THROWS_WITH(cpu(Embedding{.y = y, .table = w.values, .ids = ids}), Catch::Contains("y must be i8"));
}

TEST_CASE("weights in i8 are refused on a GPU") {
  for (const TestContext& run : TestContext::all()) {
    if (run.is_cpu()) continue;
    const auto there = [](DType dtype, const Shape& shape) { return OwnedTensor(dtype, shape, Place::cuda); };
    const OwnedTensor values = there(DType::i8, {3, 4}), scale = there(DType::f32, {3}), a = there(DType::f32, {2, 4}),
                      c = there(DType::f32, {2, 3}), y = there(DType::f32, {2, 4}), ids = there(DType::i64, {2});
    REQUIRE_THROWS_WITH(run(Matmul{.c = c, .a = a, .b = values, .b_scale = scale, .transpose_b = true}),
                        "matmul: b of i8 needs a of f32, transpose_b and the CPU");
    REQUIRE_THROWS_WITH(run(GroupedMatmul{.c = c, .a = a, .b = values, .offset = ids, .b_scale = scale}),
                        "grouped_matmul: b of i8 needs a of f32, transpose_b and the CPU");
    REQUIRE_THROWS_WITH(run(Embedding{.y = y, .table = values, .ids = ids, .table_scale = scale}),
                        "embedding: a table of i8 needs table_scale and the CPU");
  }
}

}  // namespace omni
