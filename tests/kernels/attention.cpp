#include "kernels/attention/attention.h"

#include <cmath>
#include <limits>

#include "tests/support/numbers.h"

namespace omni {
namespace {

struct Case {
  std::int64_t batch, queries, keys, heads, kv_heads, head_dim;
  bool causal;
  std::int64_t window;
  bool varied;  // with lengths and starts
};

struct Operands {
  OwnedTensor q, k, v, lengths, starts;
  AttentionMask mask;
};

Operands operands_of(const Case& size, DType dtype) {
  Operands in{randn({size.batch, size.queries, size.heads, size.head_dim}, 1, dtype),
              randn({size.batch, size.keys, size.kv_heads, size.head_dim}, 2, dtype),
              randn({size.batch, size.keys, size.kv_heads, size.head_dim}, 3, dtype),
              OwnedTensor(DType::i64, {size.batch}),
              OwnedTensor(DType::i64, {size.batch}),
              {.causal = size.causal, .window = size.window}};
  if (!size.varied) return in;
  for (std::int64_t b = 0; b < size.batch; ++b) {
    in.lengths.as<std::int64_t>()[b] = b == 0 ? 0 : size.keys - b;  // the first sequence is empty
    in.starts.as<std::int64_t>()[b] = b == 1 ? size.keys - size.queries : 0;
  }
  in.mask.lengths = in.lengths;
  in.mask.starts = in.starts;
  return in;
}

// The definition, in double: softmax over the keys that are seen, one query at a time.
std::vector<double> expected_output(const Case& size, const Operands& in) {
  const auto q = values_of(in.q), k = values_of(in.k), v = values_of(in.v);
  std::vector<double> o(q.size(), 0);
  for (std::int64_t b = 0; b < size.batch; ++b)
    for (std::int64_t i = 0; i < size.queries; ++i)
      for (std::int64_t h = 0; h < size.heads; ++h) {
        const std::int64_t kv = h / (size.heads / size.kv_heads);
        const std::int64_t position = i + (size.varied ? in.starts.as<std::int64_t>()[b] : 0);
        const std::int64_t length = size.varied ? in.lengths.as<std::int64_t>()[b] : size.keys;
        const auto at = [&](std::int64_t time, std::int64_t all, std::int64_t heads, std::int64_t head,
                            std::int64_t d) {
          return static_cast<std::size_t>(((b * all + time) * heads + head) * size.head_dim + d);
        };
        std::vector<double> p(static_cast<std::size_t>(size.keys), 0);
        double sum = 0;
        for (std::int64_t j = 0; j < length; ++j) {
          if (size.causal && j > position) continue;
          if (size.window > 0 && std::abs(position - j) >= size.window) continue;
          double score = 0;
          for (std::int64_t d = 0; d < size.head_dim; ++d)
            score += q[at(i, size.queries, size.heads, h, d)] * k[at(j, size.keys, size.kv_heads, kv, d)];
          sum += p[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(size.head_dim)));
        }
        for (std::int64_t j = 0; j < size.keys && sum > 0; ++j)
          for (std::int64_t d = 0; d < size.head_dim; ++d)
            o[at(i, size.queries, size.heads, h, d)] +=
                p[static_cast<std::size_t>(j)] / sum * v[at(j, size.keys, size.kv_heads, kv, d)];
      }
  return o;
}

void check_case(const Case& size, DType dtype) {
  CAPTURE(size.batch, size.queries, size.keys, size.heads, size.kv_heads, size.head_dim, size.causal, size.window,
          size.varied, name_of(dtype));
  const TestContext context;
  const Operands in = operands_of(size, dtype);
  const OwnedTensor o = unwritten(dtype, in.q.view().shape), again = unwritten(dtype, in.q.view().shape);
  const OwnedTensor lse = unwritten(wide_of(dtype), {size.batch, size.heads, size.queries});
  for (const OwnedTensor* out : {&o, &again})
    context(Attention{.o = *out, .lse = lse, .q = in.q, .k = in.k, .v = in.v, .mask = in.mask});
  REQUIRE_CLOSE(o, expected_output(size, in), tolerance(dtype, size.keys));
  REQUIRE(same_bits(o, again));
}

}  // namespace

TEST_CASE("attention agrees with its definition in double: masks, groups, odd sizes") {
  const Case cases[] = {
      {1, 1, 1, 1, 1, 1, true, 0, false},        {2, 7, 7, 4, 2, 16, true, 0, false},
      {1, 33, 33, 2, 1, 96, true, 0, false},     {2, 131, 131, 3, 3, 24, true, 0, false},
      {1, 100, 100, 2, 2, 128, false, 0, false}, {1, 97, 97, 2, 1, 31, true, 5, false},
      {1, 70, 70, 2, 1, 8, false, 40, false},    {1, 193, 193, 1, 1, 48, true, 96, false},
      {3, 1, 50, 4, 2, 96, true, 0, true},       {3, 3, 41, 2, 2, 7, true, 0, true},
      {3, 40, 130, 4, 1, 16, true, 0, true},     {3, 37, 37, 2, 1, 12, false, 0, true},
      {1, 5, 3, 2, 1, 4, false, 0, false},
  };
  for (const Case& size : cases)
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) check_case(size, dtype);
}

TEST_CASE("attention never reads what a cache holds beyond its length") {
  const TestContext context;
  for (const std::int64_t queries : {2, 9}) {  // the decoding form and the blocked form
    const Case size{1, queries, 64, 2, 1, 16, true, 0, false};
    const Operands in = operands_of(size, DType::f32);
    const std::int64_t length = 11;
    *in.lengths.as<std::int64_t>() = length;
    *in.starts.as<std::int64_t>() = length - queries;
    for (const OwnedTensor* cache : {&in.k, &in.v})
      std::fill_n(cache->as<float>() + length * 16, (64 - length) * 16, std::numeric_limits<float>::quiet_NaN());
    const OwnedTensor o = unwritten(DType::f32, in.q.view().shape);
    context(Attention{
        .o = o, .q = in.q, .k = in.k, .v = in.v, .mask = {.causal = true, .lengths = in.lengths, .starts = in.starts}});
    for (const double value : values_of(o)) REQUIRE(std::isfinite(value));
  }
}

TEST_CASE("attention passes NaN on and refuses operands that do not fit") {
  const TestContext context;
  const Case size{1, 6, 6, 2, 1, 16, true, 0, false};
  const Operands in = operands_of(size, DType::f32);
  in.q.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  const OwnedTensor o = OwnedTensor(DType::f32, in.q.view().shape);
  const Attention op{.o = o, .q = in.q, .k = in.k, .v = in.v, .mask = in.mask};
  context(op);
  REQUIRE(std::isnan(values_of(o)[0]));
  Attention wrong = op;
  wrong.v = in.q;
  REQUIRE_THROWS_WITH(context(wrong), Catch::Contains("attention: v must be f32 [1, 6, 1, 16]"));
}

TEST_CASE("attention gradients in f32 and bf16 agree with those in double") {
  for (const Case& size : {Case{2, 70, 70, 4, 2, 24, true, 0, false}, Case{1, 40, 40, 2, 1, 96, true, 7, false},
                           Case{3, 33, 33, 2, 2, 16, true, 0, true}, Case{1, 5, 5, 1, 1, 3, false, 0, false}}) {
    std::vector<double> expected[3];
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      CAPTURE(size.queries, size.head_dim, name_of(dtype));
      const TestContext context;
      Operands in = operands_of(size, DType::bf16);  // values that every dtype holds exactly
      const auto converted = [&](const OwnedTensor& from) {
        const std::vector<double> values = values_of(from);
        OwnedTensor out(dtype, from.view().shape);
        dispatch(dtype, [&]<class T>() {
          for (std::size_t i = 0; i < values.size(); ++i) out.as<T>()[i] = round_to<T>(static_cast<Wide<T>>(values[i]));
        });
        return out;
      };
      const OwnedTensor q = converted(in.q), k = converted(in.k), v = converted(in.v);
      const OwnedTensor d_out = converted(randn(in.q.view().shape, 9, DType::bf16));
      const OwnedTensor o = unwritten(dtype, q.view().shape), dq = unwritten(dtype, q.view().shape);
      const OwnedTensor dk = unwritten(dtype, k.view().shape), dv = unwritten(dtype, k.view().shape);
      const OwnedTensor lse = unwritten(wide_of(dtype), {size.batch, size.heads, size.queries});
      context(Attention{.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = in.mask});
      context(AttentionBackward{
          .dq = dq, .dk = dk, .dv = dv, .do_ = d_out, .o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = in.mask});
      const OwnedTensor* gradients[] = {&dq, &dk, &dv};
      for (int i = 0; i < 3; ++i) {
        if (dtype == DType::f64) expected[i] = values_of(*gradients[i]);
        // In bf16 the forward output is rounded before the backward pass reads it, hence a few roundings.
        REQUIRE_CLOSE(*gradients[i], expected[i], (dtype == DType::bf16 ? 4 : 1) * tolerance(dtype, size.keys * 4));
      }
    }
  }
}

}  // namespace omni
