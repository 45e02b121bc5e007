#include "kernels/sampling/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "engine/philox.h"
#include "kernels/sampling/weight.h"
#include "tests/support/numbers.h"

using namespace omni;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

OwnedTensor copy_of(const OwnedTensor& x) {
  OwnedTensor out = zeros(x.view().dtype, x.view().shape);
  std::memcpy(out.view().data, x.view().data, static_cast<std::size_t>(x.view().bytes()));
  return out;
}

// `rows` times the same row.
OwnedTensor repeated(std::int64_t rows, const std::vector<float>& row) {
  OwnedTensor out = zeros(DType::f32, {rows, static_cast<std::int64_t>(row.size())});
  for (std::int64_t i = 0; i < rows; ++i)
    std::copy(row.begin(), row.end(), out.as<float>() + i * static_cast<std::int64_t>(row.size()));
  return out;
}

OwnedTensor uniform_numbers(std::int64_t rows, std::uint64_t seed) {
  OwnedTensor out = zeros(DType::f64, {rows});
  Philox random(seed, RandomStream::sampling);
  std::generate_n(out.as<double>(), rows, [&] { return random.uniform(); });
  return out;
}

std::vector<std::int64_t> ids(const ConstView& token) {
  return {token.as<std::int64_t>(), token.as<std::int64_t>() + token.count()};
}

struct Cut {
  std::int64_t top_k = 0;
  double top_p = 1;
};
// The tokens that a device draws; without random numbers, the largest.
std::vector<std::int64_t> tokens(const TestContext& run, const OwnedTensor& logits, const ConstView& uniform,
                                 const Cut& cut = {}) {
  const OwnedTensor token = unwritten(DType::i64, {logits.view().rows()}), changed = copy_of(logits);
  run(SampleToken{.token = token,
                  .logits = changed,
                  .uniform = uniform,
                  .top_k = cut.top_k,
                  .top_p = cut.top_p,
                  .greedy = !uniform});
  return ids(token);
}

// The plain algorithm, with probabilities in double. Changes the logits.
std::int64_t plain_token(float* logits, const SampleToken& op, std::int64_t row) {
  const std::int64_t classes = op.classes();
  std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = 0; i < classes; ++i) {
    logits[i] /= static_cast<float>(op.temperature);
    const float penalty = static_cast<float>(op.repetition_penalty);
    if (op.seen && op.seen.as<std::uint8_t>()[row * classes + i])
      logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    if (op.recent)
      for (std::int64_t k = 0; k < op.recent.width(); ++k)
        if (op.recent.as<std::int64_t>()[row * op.recent.width() + k] == i)
          logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
  if (op.greedy) return order[0];
  if (op.top_k > 0)
    while (static_cast<std::int64_t>(order.size()) > op.top_k &&
           logits[order.back()] < logits[order[static_cast<std::size_t>(op.top_k - 1)]])
      order.pop_back();
  std::vector<double> sum{0};
  for (const std::int64_t id : order)
    sum.push_back(sum.back() + std::exp(static_cast<double>(logits[id]) - static_cast<double>(logits[order[0]])));
  double kept = sum.back();
  if (op.top_p < 1)
    for (std::size_t i = order.size(); i > 1 && sum[i - 1] > op.top_p * sum.back(); --i) kept = sum[i - 1];
  std::size_t i = 0;
  while (i + 1 < order.size() && sum[i + 1] <= op.uniform.as<double>()[row] * kept) ++i;
  return order[i];
}

// Normal logits; every other row has few different values, so that many are equal.
OwnedTensor logits_with_ties(std::int64_t rows, std::int64_t classes, std::uint64_t seed) {
  OwnedTensor out = randn({rows, classes}, seed, DType::f32, 4);
  for (std::int64_t i = 0; i < out.view().count(); ++i)
    if ((static_cast<std::uint64_t>(i / classes) + seed) % 2)
      out.as<float>()[i] = std::round(out.as<float>()[i] / 2) * 2;
  return out;
}

// All settings in turn on new random logits.
void compare_with_plain(std::int64_t classes, std::int64_t rows) {
  std::uint64_t seed = 0;
  for (const double top_p : {1e-9, 0.5, 0.85, 1.0})
    for (const std::int64_t top_k : {0, 1, 50, 10000})
      for (const auto& [temperature, penalty] : {std::pair(1.0, 1.0), {0.6, 1.3}, {2.5, 0.8}}) {
        const OwnedTensor logits = logits_with_ties(rows, classes, ++seed), uniform = uniform_numbers(rows, seed),
                          draws = random_ids({rows, classes}, seed, 3), seen = zeros(DType::u8, {rows, classes}),
                          recent = random_ids({rows, 3}, seed + 1, std::min<std::int64_t>(classes + 1, 5));
        std::copy_n(draws.as<std::int64_t>(), draws.view().count(), seen.as<std::uint8_t>());
        SampleToken op{.token = {},
                       .logits = {},
                       .seen = seen,
                       .recent = recent,
                       .uniform = uniform,
                       .temperature = temperature,
                       .repetition_penalty = penalty,
                       .top_k = top_k,
                       .top_p = top_p,
                       .greedy = seed % 16 == 0};
        if (seed % 4 == 0) op.seen = {};
        if (seed % 3 == 0) op.recent = {};
        recent.as<std::int64_t>()[0] = -1;  // none
        const OwnedTensor scaled = copy_of(logits);
        op.logits = scaled;
        std::vector<std::int64_t> expected;
        for (std::int64_t row = 0; row < rows; ++row)
          expected.push_back(plain_token(scaled.as<float>() + row * classes, op, row));
        for (const TestContext& run : TestContext::all()) {
          const OwnedTensor token = unwritten(DType::i64, {rows}), changed = copy_of(logits);
          op.token = token;
          op.logits = changed;
          run(op);
          CAPTURE(run.device().name(), classes, top_k, top_p, temperature, penalty, op.greedy);
          REQUIRE(ids(token) == expected);
          REQUIRE(same_bits(changed, scaled));
        }
      }
}

}  // namespace

// Probabilities in units and in double differ by 1e-6 of themselves at most: too little to change one of these draws.
TEST_CASE("sample_token draws on every device what the plain algorithm draws") {
  for (const std::int64_t classes : {1, 2, 31, 33, 300}) compare_with_plain(classes, 12);
  compare_with_plain(700, 4);
  compare_with_plain(6400, 1);
}

TEST_CASE("sample_token of many rows, and of none") {
  for (const TestContext& run : TestContext::all()) {
    const std::int64_t rows = run.is_cpu() ? 5000 : 300;  // more than one part of the CPU
    const OwnedTensor logits = logits_with_ties(rows, 31, 1), uniform = uniform_numbers(rows, 2);
    SampleToken op{.token = {}, .logits = logits, .uniform = uniform, .top_k = 20, .top_p = 0.9};
    std::vector<std::int64_t> expected;
    for (std::int64_t row = 0; row < rows; ++row)
      expected.push_back(plain_token(logits.as<float>() + row * 31, op, row));
    REQUIRE(tokens(run, logits, uniform, {20, 0.9}) == expected);
    REQUIRE(tokens(run, zeros(DType::f32, {0, 31}), zeros(DType::f64, {0})).empty());
  }
}

TEST_CASE("sample_token follows the softmax of the logits") {
  for (const TestContext& run : TestContext::all()) {
    const std::int64_t rows = run.is_cpu() ? 40000 : 1500;
    std::vector<float> logits{0.f, std::log(2.f), std::log(5.f), std::log(2.f), -40.f};
    const OwnedTensor uniform = uniform_numbers(rows, 3);
    const auto drawn = tokens(run, repeated(rows, logits), uniform);
    const double shares[] = {0.1, 0.2, 0.5, 0.2, 0};
    for (std::int64_t id = 0; id < 5; ++id) {
      const double sigma = std::sqrt(shares[id] * (1 - shares[id]) / static_cast<double>(rows));
      const auto count = static_cast<double>(std::count(drawn.begin(), drawn.end(), id));
      REQUIRE(std::fabs(count / static_cast<double>(rows) - shares[id]) <= 4 * sigma);
    }
  }
}

TEST_CASE("sample_token: equal logits, both zeros and infinite logits") {
  for (const TestContext& run : TestContext::all()) {
    const OwnedTensor uniform = zeros(DType::f64, {4});
    const double numbers[] = {0, 0.3, 0.6, std::nextafter(1, 0)};
    std::copy_n(numbers, 4, uniform.as<double>());
    const auto drawn = [&](const std::vector<float>& logits, const Cut& cut = {}) {
      return tokens(run, repeated(4, logits), uniform, cut);
    };
    using Ids = std::vector<std::int64_t>;
    REQUIRE(drawn({7, 7, 7, 7, 7}) == Ids{0, 1, 3, 4});  // the lower id first
    REQUIRE(drawn(std::vector<float>(1000, -3)) == Ids{0, 300, 600, 999});
    REQUIRE(drawn({2, 9, 2, 9, 2}, {2}) == Ids{1, 1, 3, 3});
    REQUIRE(drawn({2, 9, 2, 2, 2}, {2, 0}) == Ids{1, 1, 1, 1});
    REQUIRE(drawn({0.f, -0.f, 0.f, -0.f}, {1}) == Ids{0, 1, 2, 3});  // equal, so all are tied
    REQUIRE(drawn({1, 1, 1, 1}, {0, 0.5}) == Ids{0, 0, 1, 2});  // before the third it is 0.5, which is not above 0.5
    REQUIRE(drawn({-kInfinity, 1, -kInfinity}) == Ids{1, 1, 1, 1});
    REQUIRE(drawn({5, kInfinity, 5, kInfinity}) == Ids{1, 1, 3, 3});
    REQUIRE(drawn({-kInfinity, -kInfinity}) == Ids{0, 0, 1, 1});
    REQUIRE(drawn({3e38f, -3e38f}) == Ids{0, 0, 0, 0});
    const auto greedy = [&](const std::vector<float>& logits) { return tokens(run, repeated(1, logits), {})[0]; };
    REQUIRE(greedy({-0.f, 0.f}) == 0);
    REQUIRE(greedy({-2, -1, -1, -3}) == 1);
    REQUIRE(greedy({-kInfinity, -kInfinity}) == 0);
  }
}

TEST_CASE("sample_token reports a NaN and goes on with the next call") {
  for (const TestContext& run : TestContext::all())
    for (const bool greedy : {false, true}) {
      const OwnedTensor logits = randn({3, 70}, 1, DType::f32), uniform = uniform_numbers(3, 1);
      const ConstView numbers = greedy ? ConstView() : uniform;
      const auto expected = tokens(run, logits, numbers, {5, 0.9});
      const OwnedTensor damaged = copy_of(logits);
      damaged.as<float>()[100] = std::nanf("");
      REQUIRE_THROWS_WITH(tokens(run, damaged, numbers, {5, 0.9}),
                          "sampling: a logit is not a number; the weights may be damaged");
      REQUIRE(tokens(run, logits, numbers, {5, 0.9}) == expected);
    }
}

TEST_CASE("sample_token refuses settings that mean nothing") {
  const TestContext run;
  const OwnedTensor logits = zeros(DType::f32, {2, 3}), uniform = zeros(DType::f64, {2}),
                    token = zeros(DType::i64, {2});
  const auto with = [&](auto change) {
    SampleToken op{.token = token, .logits = logits, .uniform = uniform};
    change(op);
    run(op);
  };
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.uniform = {}; }), Catch::Contains("only be absent if greedy"));
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.temperature = 0; }),
                      Catch::Contains("temperature must be positive"));
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.temperature = 1e-60; }), Catch::Contains("temperature"));
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.repetition_penalty = std::nan(""); }), Catch::Contains("penalty"));
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.top_k = -1; }), Catch::Contains("top_k"));
  REQUIRE_THROWS_WITH(with([](SampleToken& op) { op.top_p = -0.1; }), Catch::Contains("top_p"));
  REQUIRE_THROWS_WITH(with([&](SampleToken& op) { op.seen = logits; }),
                      "sample_token: seen must be u8 [2, 3], found f32 [2, 3]");
  REQUIRE_THROWS_WITH(with([&](SampleToken& op) {
                        op.logits.shape = {2, 0};
                      }),
                      Catch::Contains("1 to 8388608 classes"));
}

TEST_CASE("weights are the exponential") {
  for (double distance = 0; distance < 40; distance += 0.0371)
    for (const float largest : {0.f, 17.3f, -250.f}) {
      const float logit = largest - static_cast<float>(distance);
      const double exact = 0x1p40 * std::exp(static_cast<double>(logit) - static_cast<double>(largest));
      const double weight = static_cast<double>(sampling_weight(logit, largest));
      REQUIRE(std::fabs(weight - exact) <= 1 + 1e-6 * exact);
    }
  REQUIRE(sampling_weight(2, 2) == std::uint64_t{1} << 40);
  REQUIRE(sampling_weight(-kInfinity, 2) == 0);
  REQUIRE(share_of(1000, 0) == 0);
  REQUIRE(share_of(1000, 0.0999) == 99);
  REQUIRE(share_of(std::uint64_t{1} << 62, std::nextafter(1, 0)) < std::uint64_t{1} << 62);
  REQUIRE(share_of(7, 1) == 6);
}
