#include "kernels/moe/moe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

using Ids = std::vector<std::int64_t>;

Ids ids_of(const ConstView& view) { return Ids(view.as<std::int64_t>(), view.as<std::int64_t>() + view.count()); }
OwnedTensor tensor_of(const Ids& ids) {
  OwnedTensor out = zeros(DType::i64, {static_cast<std::int64_t>(ids.size())});
  std::copy(ids.begin(), ids.end(), out.as<std::int64_t>());
  return out;
}
std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

struct RouteSizes {
  std::int64_t rows, experts, top_k;
};
constexpr RouteSizes kRouteSizes[] = {{0, 3, 1},    {1, 1, 1},    {7, 3, 2},    {40, 4, 1},    {33, 8, 8},
                                      {100, 17, 3}, {13, 33, 33}, {70, 40, 35}, {300, 4, 1},   {131, 5, 2},
                                      {67, 32, 4},  {90, 64, 3},  {5, 256, 40}, {70, 256, 71}, {4200, 4, 1}};

// The outputs of MoeRoute.
struct Routed {
  OwnedTensor probability, weight, expert, slot, source, offset, aux_loss;

  Routed(DType wide, const RouteSizes& size)
      : probability(unwritten(wide, {size.rows, size.experts})),
        weight(unwritten(wide, {size.rows, size.top_k})),
        expert(unwritten(DType::i64, {size.rows, size.top_k})),
        slot(unwritten(DType::i64, {size.rows, size.top_k})),
        source(unwritten(DType::i64, {moe_capacity(size.rows * size.top_k, size.experts)})),
        offset(unwritten(DType::i64, {size.experts + 1})),
        aux_loss(unwritten(wide, {1})) {}
  MoeRoute op(const OwnedTensor& logits, bool normalize = true, double coefficient = 0.5) const {
    return {.probability = probability,
            .weight = weight,
            .expert = expert,
            .slot = slot,
            .source = source,
            .offset = offset,
            .aux_loss = aux_loss,
            .logits = logits,
            .normalize = normalize,
            .coefficient = coefficient};
  }
  bool operator==(const Routed& other) const {
    return same_bits(probability, other.probability) && same_bits(weight, other.weight) &&
           same_bits(expert, other.expert) && same_bits(slot, other.slot) && same_bits(source, other.source) &&
           same_bits(offset, other.offset) && same_bits(aux_loss, other.aux_loss);
  }
};

Routed routed(const TestContext& run, const RouteSizes& size, std::uint64_t seed, DType wide = DType::f32) {
  Routed out(wide, size);
  run(out.op(randn({size.rows, size.experts}, seed, wide, 2)));
  return out;
}

struct ExpectedRoute {
  std::vector<double> probability, weight;
  Ids expert, slot, source, offset;
  double aux_loss = 0;
};

void sort_by_expert(ExpectedRoute& out, const RouteSizes& size) {
  const std::int64_t slots = size.rows * size.top_k, unit = slots < 256 ? 1 : 32;
  out.slot.resize(index(slots));
  for (std::int64_t e = 0; e < size.experts; ++e) {
    out.offset.push_back(static_cast<std::int64_t>(out.source.size()));
    for (std::int64_t i = 0; i < slots; ++i)
      if (out.expert[index(i)] == e) {
        out.slot[index(i)] = static_cast<std::int64_t>(out.source.size());
        out.source.push_back(i / size.top_k);
      }
    while (out.source.size() % index(unit) != 0) out.source.push_back(-1);
  }
  out.offset.push_back(static_cast<std::int64_t>(out.source.size()));
  out.source.resize(index(moe_capacity(slots, size.experts)), -1);
}

ExpectedRoute expected_route(const std::vector<double>& logits, const RouteSizes& size, bool normalize,
                             double coefficient) {
  ExpectedRoute out;
  std::vector<double> mass(index(size.experts)), chosen(index(size.experts));
  for (std::int64_t row = 0; row < size.rows; ++row) {
    const double* x = logits.data() + row * size.experts;
    double sum = 0;
    for (std::int64_t e = 0; e < size.experts; ++e) sum += std::exp(x[e]);
    Ids order(index(size.experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return x[a] > x[b]; });
    for (std::int64_t e = 0; e < size.experts; ++e) {
      out.probability.push_back(std::exp(x[e]) / sum);
      mass[index(e)] += std::exp(x[e]) / sum;
    }
    double kept = 0;
    for (std::int64_t k = 0; k < size.top_k; ++k) kept += std::exp(x[order[index(k)]]) / sum;
    for (std::int64_t k = 0; k < size.top_k; ++k) {
      const std::int64_t e = order[index(k)];
      out.expert.push_back(e);
      out.weight.push_back(std::exp(x[e]) / sum / (normalize ? kept : 1));
      ++chosen[index(e)];
    }
  }
  const double rows = static_cast<double>(size.rows);
  for (std::int64_t e = 0; e < size.experts; ++e)
    out.aux_loss += coefficient * static_cast<double>(size.experts) * chosen[index(e)] / rows * mass[index(e)] / rows;
  sort_by_expert(out, size);
  return out;
}

}  // namespace

TEST_CASE("moe_route agrees with loops in double, and its sorted order is the same on every device") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const RouteSizes& size : kRouteSizes) {
        const bool normalize = size.rows % 2 == 0;
        CAPTURE(run.is_cpu(), name_of(dtype), size.rows, size.experts, size.top_k, normalize);
        const OwnedTensor logits = randn({size.rows, size.experts}, 1, dtype, 2);
        const ExpectedRoute expected = expected_route(values_of(logits), size, normalize, 0.5);
        const DType wide = wide_of(dtype);
        const Routed out(wide, size), again(wide, size);
        run(out.op(logits, normalize));
        run(again.op(logits, normalize));
        REQUIRE(out == again);
        REQUIRE_CLOSE(out.probability, expected.probability, tolerance(wide, size.experts));
        REQUIRE_CLOSE(out.weight, expected.weight, tolerance(wide, size.experts));
        REQUIRE(ids_of(out.expert) == expected.expert);
        REQUIRE(ids_of(out.slot) == expected.slot);
        REQUIRE(ids_of(out.source) == expected.source);
        REQUIRE(ids_of(out.offset) == expected.offset);
        if (size.rows > 0)
          REQUIRE_CLOSE(out.aux_loss, std::vector{expected.aux_loss}, tolerance(wide, size.rows * size.experts));
        MoeRoute without_loss = again.op(logits, normalize);
        without_loss.aux_loss = {};
        run(without_loss);
        REQUIRE(out == again);
      }
}

TEST_CASE("moe_route gives equal probabilities to the lower expert, and a row of NaN to the first ones") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  const float rows[][5] = {{1, 1, 1, 1, 1},    {0, 2, 1, 2, 1},    {-kInf, -kInf, -kInf, 3, -kInf},
                           {0, kNan, 5, 0, 0}, {kNan, 0, 0, 5, 0}, {0, 0, kInf, 0, 0}};
  const Ids expected{0, 1, 2, 1, 3, 2, 3, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2};
  const RouteSizes size{6, 5, 3};
  for (const TestContext& run : TestContext::all()) {
    CAPTURE(run.is_cpu());
    const OwnedTensor logits = zeros(DType::f32, {6, 5});
    std::copy_n(rows[0], 30, logits.as<float>());
    const Routed out(DType::f32, size);
    run(out.op(logits));
    REQUIRE(ids_of(out.expert) == expected);
    REQUIRE(values_of(out.weight)[6] == 1);
    for (const std::size_t i : {9u, 12u, 15u}) REQUIRE(std::isnan(values_of(out.weight)[i]));
    REQUIRE(std::isnan(values_of(out.aux_loss)[0]));
  }
}

TEST_CASE("moe_route_backward agrees with loops in double, with either gradient absent") {
  const TestContext cpu;
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const RouteSizes& size : kRouteSizes)
        for (const int absent : {0, 1, 2, 3}) {
          if (absent != 0 && size.rows > 100) continue;
          const bool normalize = size.rows % 2 == 0, has_weight = !(absent & 1), has_loss = !(absent & 2);
          CAPTURE(run.is_cpu(), name_of(dtype), size.rows, size.experts, size.top_k, normalize, has_weight, has_loss);
          const DType wide = wide_of(dtype);
          const Routed forward(wide, size);
          cpu(forward.op(randn({size.rows, size.experts}, 1, wide, 2), normalize));
          const OwnedTensor dweight = randn({size.rows, size.top_k}, 2, wide), daux_loss = randn({1}, 3, wide);
          const auto p = values_of(forward.probability), weight = values_of(forward.weight), dw = values_of(dweight);
          const Ids expert = ids_of(forward.expert);
          std::vector<double> through_loss(index(size.experts)), expected;
          for (const std::int64_t e : expert)
            if (has_loss)
              through_loss[index(e)] += 0.5 * static_cast<double>(size.experts) /
                                        static_cast<double>(size.rows * size.rows) * values_of(daux_loss)[0];
          for (std::int64_t row = 0; row < size.rows; ++row) {
            std::vector<double> dp = through_loss;
            double kept = normalize ? 0 : 1, through_sum = 0, dot = 0;
            for (std::int64_t i = row * size.top_k; normalize && i < (row + 1) * size.top_k; ++i) {
              kept += p[index(row * size.experts + expert[index(i)])];
              through_sum += dw[index(i)] * weight[index(i)];
            }
            for (std::int64_t i = row * size.top_k; has_weight && i < (row + 1) * size.top_k; ++i)
              dp[index(expert[index(i)])] += (dw[index(i)] - through_sum) / kept;
            const double* row_p = p.data() + row * size.experts;
            for (std::int64_t e = 0; e < size.experts; ++e) dot += dp[index(e)] * row_p[e];
            for (std::int64_t e = 0; e < size.experts; ++e) expected.push_back(row_p[e] * (dp[index(e)] - dot));
          }
          const OwnedTensor dlogits = unwritten(dtype, {size.rows, size.experts});
          const MoeRouteBackward op{.dlogits = dlogits,
                                    .dweight = has_weight ? ConstView(dweight) : ConstView(),
                                    .daux_loss = has_loss ? ConstView(daux_loss) : ConstView(),
                                    .probability = forward.probability,
                                    .weight = forward.weight,
                                    .expert = forward.expert,
                                    .normalize = normalize,
                                    .coefficient = 0.5};
          run(op);
          REQUIRE_CLOSE(dlogits, expected, tolerance(dtype, size.experts));
        }
}

namespace {

constexpr RouteSizes kRowSizes[] = {{1, 1, 1}, {7, 3, 2}, {300, 4, 1}, {19, 40, 3}, {131, 5, 2}};
constexpr std::int64_t kWidths[] = {1, 7, 96, 257};

// Random rows in sorted order; NaN in those of padding, which nobody may read.
OwnedTensor sorted_rows(const Routed& routing, std::int64_t width, std::uint64_t seed, DType dtype) {
  const std::int64_t capacity = routing.source.view().count();
  OwnedTensor out = randn({capacity, width}, seed, dtype);
  for (std::int64_t row = 0; row < capacity; ++row)
    if (routing.source.as<std::int64_t>()[row] < 0) {
      const View padding = slice(out.view(), row * width, {width});
      std::memset(padding.data, 0xff, index(padding.bytes()));
    }
  return out;
}

}  // namespace

TEST_CASE("moe_combine and moe_gather_backward agree with loops in double") {
  const TestContext cpu;
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const RouteSizes& size : kRowSizes)
        for (const std::int64_t width : kWidths) {
          CAPTURE(run.is_cpu(), name_of(dtype), size.rows, size.experts, size.top_k, width);
          const Routed routing = routed(cpu, size, 1, wide_of(dtype));
          const OwnedTensor x = sorted_rows(routing, width, 2, dtype);
          const auto values = values_of(x), weight = values_of(routing.weight);
          const Ids slot = ids_of(routing.slot);
          std::vector<double> combined(index(size.rows * width)), gathered(combined.size());
          for (std::size_t i = 0; i < slot.size(); ++i)
            for (std::int64_t d = 0; d < width; ++d) {
              const std::size_t at = i / index(size.top_k) * index(width) + index(d);
              combined[at] += weight[i] * values[index(slot[i] * width + d)];
              gathered[at] += values[index(slot[i] * width + d)];
            }
          const OwnedTensor y = unwritten(dtype, {size.rows, width}), dx = unwritten(dtype, {size.rows, width});
          run(MoeCombine{.y = y, .x = x, .weight = routing.weight, .slot = routing.slot});
          REQUIRE_CLOSE(y, combined, tolerance(dtype, size.top_k));
          run(MoeGatherBackward{.dx = dx, .dy = x, .slot = routing.slot});
          REQUIRE_CLOSE(dx, gathered, tolerance(dtype, size.top_k));
        }
}

TEST_CASE("moe_combine_backward agrees with loops in double and zeroes padding rows") {
  const TestContext cpu;
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const RouteSizes& size : {RouteSizes{1, 1, 1}, {7, 3, 2}, {300, 4, 1}, {19, 40, 3}, {520, 3, 2}})
        for (const std::int64_t width : kWidths) {
          if (size.rows > 300 && width > 96) continue;
          CAPTURE(run.is_cpu(), name_of(dtype), size.rows, size.experts, size.top_k, width);
          const DType wide = wide_of(dtype);
          const Routed routing = routed(cpu, size, 1, wide);
          const OwnedTensor x = sorted_rows(routing, width, 2, dtype), dy = randn({size.rows, width}, 3, dtype);
          const auto values = values_of(x), weight = values_of(routing.weight), dys = values_of(dy);
          const Ids slot = ids_of(routing.slot);
          std::vector<double> dx_expected(values.size()), dweight_expected(slot.size());
          for (std::size_t i = 0; i < slot.size(); ++i)
            for (std::int64_t d = 0; d < width; ++d) {
              const double dyi = dys[i / index(size.top_k) * index(width) + index(d)];
              dx_expected[index(slot[i] * width + d)] = weight[i] * dyi;
              dweight_expected[i] += dyi * values[index(slot[i] * width + d)];
            }
          const OwnedTensor dx = unwritten(dtype, x.view().shape), dx_again = unwritten(dtype, x.view().shape);
          const OwnedTensor dweight = unwritten(wide, {size.rows, size.top_k}),
                            dweight_again = unwritten(wide, {size.rows, size.top_k});
          MoeCombineBackward op{
              .dx = dx, .dweight = dweight, .dy = dy, .x = x, .weight = routing.weight, .slot = routing.slot};
          run(op);
          REQUIRE_CLOSE(dx, dx_expected, tolerance(dtype));
          // A sum of products of normal numbers: of size sqrt(width).
          REQUIRE_CLOSE(dweight, dweight_expected, tolerance(wide, width) * std::sqrt(static_cast<double>(width)));
          op.dx = dx_again;
          op.dweight = dweight_again;
          run(op);
          REQUIRE(same_bits(dx, dx_again));
          REQUIRE(same_bits(dweight, dweight_again));
        }
}

namespace {

struct GroupedSizes {
  Ids offset;
  std::int64_t capacity, n, k;
};

// Empty experts at either end and in between, segments around the size of a tile, unused rows at the end; widths that
// are multiples of neither vector nor tile, and around the size of a tile.
std::vector<GroupedSizes> grouped_sizes() {
  std::vector<GroupedSizes> out{{{0, 1}, 1, 1, 1},
                                {{0, 0, 5, 5, 9, 9}, 12, 7, 5},
                                {{0, 3}, 3, 33, 96},
                                {{0, 0, 31, 64}, 70, 24, 40},
                                {{0, 127, 255, 256, 256}, 257, 63, 17},
                                {{0, 127, 255, 256, 256}, 260, 72, 136},
                                {{0, 0, 160, 288}, 288, 200, 32},
                                {{0, 129, 129, 140}, 140, 65, 101}};
  Ids many{0};  // more experts than a warp has lanes, and enough tiles for every GPU to choose wide ones
  for (std::int64_t e = 0; e < 140; ++e) many.push_back(many.back() + e % 4);
  out.push_back({many, many.back() + 3, 136, 72});
  out.push_back({many, many.back(), 9, 4});
  return out;
}

}  // namespace

TEST_CASE("grouped_matmul agrees with a loop in double and leaves rows past the last segment alone") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const auto& [offsets, capacity, n, k] : grouped_sizes())
        for (const bool transpose_b : {true, false}) {
          CAPTURE(run.is_cpu(), name_of(dtype), offsets.size(), capacity, n, k, transpose_b);
          const auto experts = static_cast<std::int64_t>(offsets.size()) - 1;
          const OwnedTensor offset = tensor_of(offsets), a = randn({capacity, k}, 1, dtype);
          const OwnedTensor b = randn(transpose_b ? Shape{experts * n, k} : Shape{experts * k, n}, 2, dtype);
          const auto as = values_of(a), bs = values_of(b);
          std::vector<double> expected;
          for (std::int64_t e = 0; e < experts; ++e)
            for (std::int64_t row = offsets[index(e)]; row < offsets[index(e) + 1]; ++row)
              for (std::int64_t j = 0; j < n; ++j) {
                const double *x = as.data() + row * k, *w = bs.data() + e * n * k;
                double sum = 0;
                for (std::int64_t d = 0; d < k; ++d) sum += x[d] * w[transpose_b ? j * k + d : d * n + j];
                expected.push_back(sum);
              }
          const OwnedTensor c = unwritten(dtype, {capacity, n}), again = unwritten(dtype, {capacity, n});
          run(GroupedMatmul{.c = c, .a = a, .b = b, .offset = offset, .transpose_b = transpose_b});
          run(GroupedMatmul{.c = again, .a = a, .b = b, .offset = offset, .transpose_b = transpose_b});
          REQUIRE(same_bits(c, again));
          const ConstView used = slice(ConstView(c), 0, {offsets.back(), n});
          REQUIRE_CLOSE(used, expected, tolerance(dtype, k) * std::sqrt(static_cast<double>(k)));
          const ConstView rest = slice(ConstView(c), offsets.back() * n, {capacity - offsets.back(), n});
          REQUIRE(same_bits(rest, unwritten(dtype, rest.shape)));
        }
}

TEST_CASE("grouped_matmul_weight_gradient agrees with a loop in double, added or not, also without rows") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const auto& [offsets, capacity, n, k] : grouped_sizes())
        for (const bool accumulate : {false, true}) {
          CAPTURE(run.is_cpu(), name_of(dtype), offsets.size(), capacity, n, k, accumulate);
          const auto experts = static_cast<std::int64_t>(offsets.size()) - 1;
          const DType wide = wide_of(dtype);
          const OwnedTensor offset = tensor_of(offsets), dy = randn({capacity, n}, 1, dtype);
          const OwnedTensor x = randn({capacity, k}, 2, dtype);
          const Shape shape{experts * n, k};
          const OwnedTensor dw = accumulate ? randn(shape, 3, wide) : unwritten(wide, shape);
          const OwnedTensor before = accumulate ? randn(shape, 3, wide) : zeros(wide, shape);
          std::vector<double> expected = values_of(before);
          const auto dys = values_of(dy), xs = values_of(x);
          std::int64_t longest = 1;
          for (std::int64_t e = 0; e < experts; ++e) {
            longest = std::max(longest, offsets[index(e) + 1] - offsets[index(e)]);
            for (std::int64_t row = offsets[index(e)]; row < offsets[index(e) + 1]; ++row)
              for (std::int64_t i = 0; i < n; ++i) {
                double* into = expected.data() + (e * n + i) * k;
                const double d = dys[index(row * n + i)], *row_x = xs.data() + row * k;
                for (std::int64_t j = 0; j < k; ++j) into[j] += d * row_x[j];
              }
          }
          run(GroupedMatmulWeightGradient{.dw = dw, .dy = dy, .x = x, .offset = offset, .accumulate = accumulate});
          REQUIRE_CLOSE(dw, expected, tolerance(wide, longest) * std::sqrt(static_cast<double>(longest)));
          for (std::int64_t e = 0; e < experts; ++e)
            if (offsets[index(e)] == offsets[index(e) + 1])
              REQUIRE(same_bits(slice(ConstView(dw), e * n * k, {n, k}), slice(ConstView(before), e * n * k, {n, k})));
        }
}
