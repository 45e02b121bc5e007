#include "kernels/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/amx.h"
#include "kernels/attention/decode.h"
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
              zeros(DType::i64, {size.batch}),
              zeros(DType::i64, {size.batch}),
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

struct Expected {
  std::vector<double> o, lse;
};

// The definition, in double: softmax over the keys that are seen, one query at a time.
Expected expected_of(const Case& size, const Operands& in) {
  const auto q = values_of(in.q), k = values_of(in.k), v = values_of(in.v);
  Expected out{std::vector<double>(q.size(), 0),
               std::vector<double>(static_cast<std::size_t>(size.batch * size.heads * size.queries))};
  for (std::int64_t b = 0; b < size.batch; ++b)
    for (std::int64_t i = 0; i < size.queries; ++i)
      for (std::int64_t h = 0; h < size.heads; ++h) {
        const std::int64_t kv = h / (size.heads / size.kv_heads);
        const std::int64_t position = i + (size.varied ? in.starts.as<std::int64_t>()[b] : 0);
        const std::int64_t length = size.varied ? in.lengths.as<std::int64_t>()[b] : size.keys;
        const std::int64_t query = ((b * size.queries + i) * size.heads + h) * size.head_dim;
        const auto key = [&](std::int64_t j) { return ((b * size.keys + j) * size.kv_heads + kv) * size.head_dim; };
        std::vector<double> p(static_cast<std::size_t>(size.keys), 0);
        double sum = 0;
        for (std::int64_t j = 0; j < std::min(length, size.keys); ++j) {
          if (size.causal && j > position) continue;
          if (size.window > 0 && std::abs(position - j) >= size.window) continue;
          const double *qi = q.data() + query, *kj = k.data() + key(j);
          double score = 0;
          for (std::int64_t d = 0; d < size.head_dim; ++d) score += qi[d] * kj[d];
          sum += p[static_cast<std::size_t>(j)] = std::exp(score / std::sqrt(static_cast<double>(size.head_dim)));
        }
        out.lse[static_cast<std::size_t>((b * size.heads + h) * size.queries + i)] = std::log(sum);
        for (std::int64_t j = 0; j < size.keys && sum > 0; ++j) {
          const double weight = p[static_cast<std::size_t>(j)] / sum, *vj = v.data() + key(j);
          for (std::int64_t d = 0; d < size.head_dim; ++d) out.o.data()[query + d] += weight * vj[d];
        }
      }
  return out;
}

void check_operands(const TestContext& context, const Case& size, const Operands& in) {
  const DType dtype = in.q.view().dtype;
  CAPTURE(context.is_cpu(), size.batch, size.queries, size.keys, size.heads, size.kv_heads, size.head_dim, size.causal,
          size.window, size.varied, name_of(dtype));
  const OwnedTensor o = unwritten(dtype, in.q.view().shape), again = unwritten(dtype, in.q.view().shape);
  const OwnedTensor lse = unwritten(wide_of(dtype), {size.batch, size.heads, size.queries});
  for (const OwnedTensor* out : {&o, &again})
    context(Attention{.o = *out, .lse = lse, .q = in.q, .k = in.k, .v = in.v, .mask = in.mask});
  const Expected expected = expected_of(size, in);
  // Matrix units take the weights in bf16: a second rounding, of terms as large as the values.
  const bool on_units = Attention{.o = o, .q = in.q, .k = in.k, .v = in.v}.fits_matrix_units() &&
                        size.queries > kDecodeQueries && (!context.is_cpu() || may_use_tiles());
  const int roundings = on_units ? 2 : 1;
  REQUIRE_CLOSE(o, expected.o, roundings * tolerance(dtype, size.keys));
  REQUIRE_CLOSE(lse, expected.lse, tolerance(wide_of(dtype), size.keys + size.head_dim));
  REQUIRE(same_bits(o, again));
}

void check_case(const TestContext& context, const Case& size, DType dtype) {
  check_operands(context, size, operands_of(size, dtype));
}

// A mask and a group of query heads for each number, so that a few cases meet them all.
Case varied_case(std::int64_t turn, std::int64_t queries, std::int64_t keys, std::int64_t head_dim) {
  constexpr std::int64_t kWindows[] = {0, 0, 33, 40, 0}, kGroups[] = {1, 2, 4};
  const std::int64_t mask = turn % 5, group = kGroups[turn % 3];
  return {mask == 4 ? 3 : 1, queries,        keys,     group == 4 ? 4 : 2 * group, group == 4 ? 1 : 2, head_dim,
          mask % 2 == 0,     kWindows[mask], mask == 4};
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
      {1, 5, 3, 2, 1, 4, false, 0, false},       {0, 6, 6, 2, 1, 16, true, 0, false},
      {2, 0, 6, 2, 1, 16, true, 0, false},       {2, 6, 0, 2, 1, 16, true, 0, false},
      {2, 2, 0, 2, 1, 16, true, 0, false},
  };
  for (const TestContext& context : TestContext::all())
    for (const Case& size : cases)
      for (const DType dtype : context.dtypes()) check_case(context, size, dtype);
}

TEST_CASE("attention at the edges of blocks of queries and keys") {
  constexpr std::int64_t kTimes[] = {1, 31, 33, 63, 64, 65, 127, 129};
  for (const TestContext& context : TestContext::all()) {
    std::int64_t turn = 0;
    for (const std::int64_t head_dim : {16, 32, 64, 96, 128})
      for (const std::int64_t queries : kTimes) {
        const Case size = varied_case(turn, queries, kTimes[turn * 3 % 8], head_dim);
        for (const DType dtype : {DType::f32, DType::bf16}) check_case(context, size, dtype);
        ++turn;
      }
  }
}

// More than one round of keys and one strip of queries of the CPU's matrix units.
constexpr Case kLong[] = {{1, 545, 545, 2, 1, 16, true, 0, false},
                          {1, 35, 1100, 2, 1, 32, false, 0, false},
                          {1, 600, 70, 1, 1, 16, false, 0, false},
                          {1, 530, 530, 1, 1, 16, true, 515, false}};

TEST_CASE("attention of long sequences") {
  for (const TestContext& context : TestContext::all())
    for (const Case& size : kLong)
      for (const DType dtype : {DType::f32, DType::bf16}) check_case(context, size, dtype);
}

TEST_CASE("attention of few queries over caches of any length") {
  for (const TestContext& context : TestContext::all()) {
    std::int64_t turn = 0;
    for (const std::int64_t keys : {1, 31, 32, 33, 200, 1000})
      for (const std::int64_t queries : {1, 2, 4}) {
        const Case size = varied_case(turn, queries, keys, turn % 4 == 0 ? 20 : 32 * (turn % 4));
        for (const DType dtype : {DType::f32, DType::bf16}) check_case(context, size, dtype);
        ++turn;
      }
  }
}

TEST_CASE("attention over caches that are filled to different lengths") {
  constexpr std::int64_t kLengths[] = {0, 1, 31, 32, 33, 100, 300, 400};  // the last one is beyond the capacity
  for (const TestContext& context : TestContext::all())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const std::int64_t queries : {1, 3, 70}) {
        const Case size{std::size(kLengths), queries, 300, 4, 2, 32, true, 0, true};
        const Operands in = operands_of(size, dtype);
        for (std::int64_t b = 0; b < size.batch; ++b) {
          in.lengths.as<std::int64_t>()[b] = kLengths[b];
          in.starts.as<std::int64_t>()[b] = kLengths[b] - queries;
        }
        check_operands(context, size, in);
      }
}

TEST_CASE("attention never reads what a cache holds beyond its length") {
  for (const TestContext& context : TestContext::all())
    for (const DType dtype : context.dtypes())
      for (const std::int64_t queries : {2, 9}) {  // the decoding form and the blocked form
        const Case size{1, queries, 64, 2, 1, 16, true, 0, false};
        const Operands in = operands_of(size, dtype);
        const std::int64_t length = 11, row_bytes = 16 * static_cast<std::int64_t>(size_of(dtype));
        *in.lengths.as<std::int64_t>() = length;
        *in.starts.as<std::int64_t>() = length - queries;
        for (const OwnedTensor* cache : {&in.k, &in.v})  // all bits set: a NaN
          std::memset(static_cast<std::byte*>(cache->view().data) + length * row_bytes, 0xff,
                      static_cast<std::size_t>((size.keys - length) * row_bytes));
        const OwnedTensor o = unwritten(dtype, in.q.view().shape);
        context(Attention{.o = o,
                          .q = in.q,
                          .k = in.k,
                          .v = in.v,
                          .mask = {.causal = true, .lengths = in.lengths, .starts = in.starts}});
        for (const double value : values_of(o)) REQUIRE(std::isfinite(value));
      }
}

TEST_CASE("attention passes NaN on") {
  for (const TestContext& context : TestContext::all())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const std::int64_t queries : {2, 6}) {
        const Case size{1, queries, 6, 2, 1, 16, true, 0, false};
        const Operands in = operands_of(size, dtype);
        std::memset(in.q.view().data, 0xff, size_of(dtype));
        const OwnedTensor o = zeros(dtype, in.q.view().shape);
        context(Attention{.o = o, .q = in.q, .k = in.k, .v = in.v, .mask = in.mask});
        const std::vector<double> values = values_of(o);
        REQUIRE(std::isnan(values[0]));
        REQUIRE(std::isfinite(values[16]));  // of the other head
      }
}

TEST_CASE("attention refuses operands that do not fit") {
  const TestContext context;
  const Case size{1, 6, 6, 2, 1, 16, true, 0, false};
  const Operands in = operands_of(size, DType::f32);
  const OwnedTensor o = zeros(DType::f32, in.q.view().shape);
  const Attention wrong{.o = o, .q = in.q, .k = in.k, .v = in.q, .mask = in.mask};
  REQUIRE_THROWS_WITH(context(wrong), Catch::Contains("attention: v must be f32 [1, 6, 1, 16]"));
}

// dq, dk and dv of one device and dtype, as doubles. The operands hold values that every dtype holds exactly.
std::vector<std::vector<double>> gradients_of(const TestContext& context, const Case& size, DType dtype) {
  const Operands in = operands_of(size, DType::bf16);
  const auto converted = [&](const OwnedTensor& from) {
    const std::vector<double> values = values_of(from);
    OwnedTensor out = zeros(dtype, from.view().shape);
    dispatch(dtype, [&]<class T>() {
      for (std::size_t i = 0; i < values.size(); ++i) out.as<T>()[i] = round_to<T>(static_cast<Wide<T>>(values[i]));
    });
    return out;
  };
  const OwnedTensor q = converted(in.q), k = converted(in.k), v = converted(in.v);
  const OwnedTensor d_out = converted(randn(in.q.view().shape, 9, DType::bf16));
  const OwnedTensor o = unwritten(dtype, q.view().shape);
  const OwnedTensor lse = unwritten(wide_of(dtype), {size.batch, size.heads, size.queries});
  context(Attention{.o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = in.mask});
  std::vector<OwnedTensor> out[2];
  for (std::vector<OwnedTensor>& d : out) {
    for (const OwnedTensor* like : {&q, &k, &v}) d.push_back(unwritten(dtype, like->view().shape));
    context(AttentionBackward{
        .dq = d[0], .dk = d[1], .dv = d[2], .do_ = d_out, .o = o, .lse = lse, .q = q, .k = k, .v = v, .mask = in.mask});
  }
  std::vector<std::vector<double>> values;
  for (std::size_t i = 0; i < 3; ++i) {
    REQUIRE(same_bits(out[0][i], out[1][i]));
    values.push_back(values_of(out[0][i]));
  }
  return values;
}

void check_gradients(const Case& size) {
  const auto expected = gradients_of(TestContext(), size, DType::f64);
  for (const TestContext& context : TestContext::all())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(context.is_cpu(), size.batch, size.queries, size.keys, size.heads, size.kv_heads, size.head_dim,
              size.causal, size.window, size.varied, name_of(dtype));
      const auto actual = gradients_of(context, size, dtype);
      // The longest sum, over keys or over the queries of a group, of terms that have a few errors themselves.
      const std::int64_t terms = 4 * std::max(size.keys, size.queries * size.heads / size.kv_heads);
      // In bf16 the forward output is rounded before the backward pass reads it, hence a few roundings.
      const int roundings = dtype == DType::bf16 ? 4 : 1;
      for (std::size_t i = 0; i < 3; ++i)
        REQUIRE(difference(actual[i], expected[i], roundings * tolerance(dtype, terms)) == "");
    }
}

TEST_CASE("attention gradients in f32 and bf16 agree with those in double") {
  const Case cases[] = {
      {2, 70, 70, 4, 2, 24, true, 0, false}, {1, 40, 40, 2, 1, 96, true, 7, false},
      {3, 33, 33, 2, 2, 16, true, 0, true},  {1, 5, 5, 1, 1, 3, false, 0, false},
      {2, 3, 40, 4, 1, 7, true, 0, true},    {1, 40, 3, 2, 1, 32, false, 9, false},
      {2, 0, 6, 2, 1, 16, true, 0, false},   {2, 6, 0, 2, 1, 16, true, 0, false},
      {0, 6, 6, 2, 1, 16, true, 0, false},
  };
  for (const Case& size : cases) check_gradients(size);
}

TEST_CASE("attention gradients at the edges of blocks of queries and keys") {
  constexpr std::int64_t kTimes[][2] = {{63, 65}, {129, 129}, {64, 127}, {1, 33}, {31, 1}, {65, 64}};
  std::int64_t turn = 0;
  for (const std::int64_t head_dim : {16, 32, 64, 96, 128})
    for (const auto& [queries, keys] : kTimes) check_gradients(varied_case(turn++, queries, keys, head_dim));
}

TEST_CASE("attention gradients of long sequences") {
  for (const Case& size : kLong) check_gradients(size);
}

}  // namespace omni
