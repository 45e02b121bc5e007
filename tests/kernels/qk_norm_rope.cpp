#include "kernels/qk_norm_rope/qk_norm_rope.h"

#include <algorithm>
#include <cmath>

#include "tests/support/numbers.h"

using namespace omni;

namespace {

constexpr double kEps = 1e-2;  // large, so that a head of two small values does not blow up its rounding errors
constexpr std::int64_t kPositions = 50;

struct Size {
  std::int64_t batch, time, heads, kv_heads, head_dim;
  std::int64_t row_heads() const { return heads + 2 * kv_heads; }
};
constexpr Size kSizes[] = {{1, 1, 1, 1, 2},    {2, 3, 8, 4, 96}, {1, 5, 3, 1, 30}, {2, 7, 4, 2, 62},
                           {1, 3, 17, 3, 128}, {1, 33, 2, 1, 8}, {2, 9, 1, 3, 24}, {0, 3, 2, 1, 8}};

struct Inputs {
  Size size;
  OwnedTensor qkv, q_weight, k_weight, cosine, sine, starts;
  std::int64_t start(std::int64_t b) const { return starts.as<std::int64_t>()[b]; }
};

Inputs make_inputs(const Size& size, DType dtype) {
  const DType wide = wide_of(dtype);
  const std::int64_t half = size.head_dim / 2;
  Inputs in{size,
            randn({size.batch, size.time, size.row_heads() * size.head_dim}, 1, dtype),
            randn({size.head_dim}, 2, wide),
            randn({size.head_dim}, 3, wide),
            zeros(wide, {kPositions, half}),
            zeros(wide, {kPositions, half}),
            random_ids({size.batch}, 4, kPositions - size.time)};
  dispatch(wide, [&]<class W>() {
    for (std::int64_t i = 0; i < kPositions * half; ++i) {
      const double angle = 0.37 * static_cast<double>(i / half) / (1 + static_cast<double>(i % half));
      in.cosine.as<W>()[i] = round_to<W>(std::cos(angle));
      in.sine.as<W>()[i] = round_to<W>(std::sin(angle));
    }
  });
  return in;
}

// The number of the head's first value in qkv, and in q or else in k and v of `kv_time` time steps.
std::size_t at_qkv(const Size& s, std::int64_t b, std::int64_t t, std::int64_t head) {
  return static_cast<std::size_t>(((b * s.time + t) * s.row_heads() + head) * s.head_dim);
}
std::size_t at_split(const Size& s, std::int64_t b, std::int64_t t, std::int64_t head, std::int64_t kv_time) {
  if (head < s.heads) return static_cast<std::size_t>(((b * s.time + t) * s.heads + head) * s.head_dim);
  return static_cast<std::size_t>(((b * kv_time + t) * s.kv_heads + (head - s.heads) % s.kv_heads) * s.head_dim);
}

// Calls body(b, t, head) for every head of every row.
template <class Body>
void each_head(const Size& s, const Body& body) {
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t t = 0; t < s.time; ++t)
      for (std::int64_t head = 0; head < s.row_heads(); ++head) body(b, t, head);
}

// One head in double: the normalised values, before the weight, and their scale.
struct Normed {
  std::vector<double> n;
  double inverse;
};
Normed normalize(const double* x, std::size_t head_dim) {
  double squares = 0;
  for (std::size_t d = 0; d < head_dim; ++d) squares += x[d] * x[d];
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(head_dim) + kEps);
  Normed out{{x, x + head_dim}, inverse};
  for (double& value : out.n) value *= inverse;
  return out;
}

void check_forward(const TestContext& run, const Size& s, DType dtype, bool into_cache) {
  const Inputs in = make_inputs(s, dtype);
  const std::int64_t capacity = into_cache ? kPositions : s.time;
  const auto dim = static_cast<std::size_t>(s.head_dim), half = dim / 2;
  const OwnedTensor q = unwritten(dtype, {s.batch, s.time, s.heads, s.head_dim});
  const OwnedTensor k = randn({s.batch, capacity, s.kv_heads, s.head_dim}, 5, dtype),
                    v = randn({s.batch, capacity, s.kv_heads, s.head_dim}, 6, dtype);
  auto q_expected = values_of(q), k_expected = values_of(k), v_expected = values_of(v);
  const auto x = values_of(in.qkv), q_weight = values_of(in.q_weight), k_weight = values_of(in.k_weight),
             cosine = values_of(in.cosine), sine = values_of(in.sine);
  each_head(s, [&](std::int64_t b, std::int64_t t, std::int64_t head) {
    const std::int64_t position = t + in.start(b);
    const std::size_t from = at_qkv(s, b, t, head),
                      to = at_split(s, b, head >= s.heads && into_cache ? position : t, head, capacity);
    if (head >= s.heads + s.kv_heads) {
      std::copy_n(&x[from], dim, &v_expected[to]);
      return;
    }
    const Normed normed = normalize(&x[from], dim);
    const auto& weight = head < s.heads ? q_weight : k_weight;
    auto& out = head < s.heads ? q_expected : k_expected;
    for (std::size_t d = 0; d < half; ++d) {
      const double n1 = normed.n[d] * weight[d], n2 = normed.n[d + half] * weight[d + half];
      const double c = cosine[static_cast<std::size_t>(position) * half + d],
                   sn = sine[static_cast<std::size_t>(position) * half + d];
      out[to + d] = n1 * c - n2 * sn;
      out[to + d + half] = n2 * c + n1 * sn;
    }
  });
  run(QkNormRope{.q = q,
                 .k = k,
                 .v = v,
                 .qkv = in.qkv,
                 .q_weight = in.q_weight,
                 .k_weight = in.k_weight,
                 .cosine = in.cosine,
                 .sine = in.sine,
                 .starts = in.starts,
                 .eps = kEps,
                 .into_cache = into_cache});
  REQUIRE_CLOSE(q, q_expected, 8 * tolerance(dtype, s.head_dim));
  REQUIRE_CLOSE(k, k_expected, 8 * tolerance(dtype, s.head_dim));
  REQUIRE_CLOSE(v, v_expected, 0);
}

struct Gradients {
  std::vector<double> dqkv, dq_weight, dk_weight;
};

Gradients backward(const Inputs& in, const std::vector<double>& dq, const std::vector<double>& dk,
                   const std::vector<double>& dv) {
  const Size& s = in.size;
  const auto dim = static_cast<std::size_t>(s.head_dim), half = dim / 2;
  const auto x = values_of(in.qkv), q_weight = values_of(in.q_weight), k_weight = values_of(in.k_weight),
             cosine = values_of(in.cosine), sine = values_of(in.sine);
  Gradients out{std::vector<double>(x.size()), std::vector<double>(dim, 0), std::vector<double>(dim, 0)};
  each_head(s, [&](std::int64_t b, std::int64_t t, std::int64_t head) {
    const std::size_t from = at_qkv(s, b, t, head), to = at_split(s, b, t, head, s.time);
    if (head >= s.heads + s.kv_heads) {
      std::copy_n(&dv[to], dim, &out.dqkv[from]);
      return;
    }
    const Normed normed = normalize(&x[from], dim);
    const bool is_query = head < s.heads;
    const auto &weight = is_query ? q_weight : k_weight, &dy = is_query ? dq : dk;
    auto& dweight = is_query ? out.dq_weight : out.dk_weight;
    std::vector<double> dn(dim);
    double mean = 0;
    for (std::size_t d = 0; d < half; ++d) {
      const std::size_t angle = static_cast<std::size_t>(t + in.start(b)) * half + d;
      dn[d] = dy[to + d] * cosine[angle] + dy[to + d + half] * sine[angle];
      dn[d + half] = dy[to + d + half] * cosine[angle] - dy[to + d] * sine[angle];
    }
    for (std::size_t d = 0; d < dim; ++d) {
      dweight[d] += dn[d] * normed.n[d];
      mean += dn[d] * weight[d] * normed.n[d] / static_cast<double>(dim);
    }
    for (std::size_t d = 0; d < dim; ++d)
      out.dqkv[from + d] = normed.inverse * (dn[d] * weight[d] - normed.n[d] * mean);
  });
  return out;
}

std::vector<double> twice(std::vector<double> x) {
  for (double& value : x) value *= 2;
  return x;
}

}  // namespace

TEST_CASE("qk_norm_rope agrees with a loop in double, with and without a cache") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const Size& size : kSizes)
        for (const bool into_cache : {false, true}) check_forward(run, size, dtype, into_cache);
}

TEST_CASE("qk_norm_rope_backward agrees with a loop in double") {
  for (const TestContext& run : TestContext::all())
    for (const DType dtype : run.dtypes())
      for (const Size& s : kSizes) {
        const DType wide = wide_of(dtype);
        const Inputs in = make_inputs(s, dtype);
        const Shape q_shape{s.batch, s.time, s.heads, s.head_dim}, kv_shape{s.batch, s.time, s.kv_heads, s.head_dim};
        const OwnedTensor dq = randn(q_shape, 7, dtype), dk = randn(kv_shape, 8, dtype), dv = randn(kv_shape, 9, dtype);
        const Gradients expected = backward(in, values_of(dq), values_of(dk), values_of(dv));
        const OwnedTensor dqkv = unwritten(dtype, in.qkv.view().shape), dq_weight = unwritten(wide, {s.head_dim}),
                          dk_weight = unwritten(wide, {s.head_dim});
        QkNormRopeBackward op{.dqkv = dqkv,
                              .dq_weight = dq_weight,
                              .dk_weight = dk_weight,
                              .dq = dq,
                              .dk = dk,
                              .dv = dv,
                              .qkv = in.qkv,
                              .q_weight = in.q_weight,
                              .k_weight = in.k_weight,
                              .cosine = in.cosine,
                              .sine = in.sine,
                              .starts = in.starts,
                              .eps = kEps};
        run(op);
        const double bound = 32 * tolerance(dtype, s.head_dim);
        const double sum_bound = 8 * tolerance(wide, s.batch * s.time * s.heads + s.head_dim);
        REQUIRE_CLOSE(dqkv, expected.dqkv, bound);
        REQUIRE_CLOSE(dq_weight, expected.dq_weight, sum_bound);
        REQUIRE_CLOSE(dk_weight, expected.dk_weight, sum_bound);

        const OwnedTensor dqkv2 = unwritten(dtype, in.qkv.view().shape), dq_weight2 = unwritten(wide, {s.head_dim});
        op.dqkv = dqkv2, op.dq_weight = dq_weight2, op.dk_weight = {};
        run(op);
        REQUIRE(same_bits(dqkv, dqkv2));
        REQUIRE(same_bits(dq_weight, dq_weight2));
        op.dq_weight = {}, op.dk_weight = dk_weight, op.accumulate = true;
        run(op);
        REQUIRE_CLOSE(dk_weight, twice(expected.dk_weight), 2 * sum_bound);
      }
}

TEST_CASE("qk_norm_rope refuses positions outside its tables and its cache") {
  const TestContext run;
  const Inputs in = make_inputs({1, 3, 2, 1, 8}, DType::f32);
  const OwnedTensor q = zeros(DType::f32, {1, 3, 2, 8}), k = zeros(DType::f32, {1, 9, 1, 8}),
                    v = zeros(DType::f32, {1, 9, 1, 8});
  const QkNormRope op{.q = q,
                      .k = k,
                      .v = v,
                      .qkv = in.qkv,
                      .q_weight = in.q_weight,
                      .k_weight = in.k_weight,
                      .cosine = in.cosine,
                      .sine = in.sine,
                      .starts = in.starts,
                      .into_cache = true};
  *in.starts.as<std::int64_t>() = kPositions - 2;
  REQUIRE_THROWS_WITH(run(op), "qk_norm_rope: positions must lie inside the table of angles");
  *in.starts.as<std::int64_t>() = 7;
  REQUIRE_THROWS_WITH(run(op), "qk_norm_rope: the cache must hold all positions");
  *in.starts.as<std::int64_t>() = 6;
  REQUIRE_NOTHROW(run(op));
}
