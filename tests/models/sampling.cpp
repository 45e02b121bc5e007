#include "models/sampling.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>

namespace omni {
namespace {

std::map<std::int32_t, int> draws(const SamplingSettings& settings, const std::vector<float>& logits,
                                  const std::vector<std::int32_t>& sequence = {}, int count = 20000) {
  Device device = Device::cpu(1);
  Sampler sampler(device, settings);
  Philox random(1, RandomStream::test);
  std::map<std::int32_t, int> out;
  for (int i = 0; i < count; ++i) {
    std::vector<float> copy = logits;
    const View view = view_of(copy.data(), {1, static_cast<std::int64_t>(copy.size())});
    ++out[sampler.next(view, sequence, random)];
  }
  return out;
}

const SamplingSettings kPlain{.temperature = 1, .repetition_penalty = 1, .top_k = 0, .top_p = 1};

}  // namespace

TEST_CASE("draws follow the softmax of the logits") {
  const std::vector<float> logits{0.f, std::log(2.f), std::log(5.f), -30.f};
  const auto drawn = draws(kPlain, logits);
  for (const auto& [id, share] : std::map<std::int32_t, double>{{0, 1 / 8.}, {1, 2 / 8.}, {2, 5 / 8.}}) {
    const double sigma = std::sqrt(share * (1 - share) / 20000);
    REQUIRE(std::abs(drawn.at(id) / 20000. - share) <= 4 * sigma);
  }
  REQUIRE(drawn.count(3) == 0);
}

TEST_CASE("temperature, top-k with ties, top-p and the repetition penalty") {
  SamplingSettings settings = kPlain;
  settings.temperature = 0.5;  // squares the odds
  const auto cold = draws(settings, {0.f, std::log(3.f)});
  REQUIRE(std::abs(cold.at(1) / 20000. - 0.9) <= 0.01);

  settings = kPlain;
  settings.top_k = 2;
  REQUIRE(draws(settings, {1.f, 3.f, 2.f, 2.f, 0.f}).size() == 3);  // the two at 2.0 are tied for the last place
  settings.top_k = 100;
  REQUIRE(draws(settings, {0.f, 0.f}).size() == 2);

  settings = kPlain;
  settings.top_p = 0.6;  // 0.5, then 0.3 crosses the limit and stays, then 0.2 goes
  const auto nucleus = draws(settings, {std::log(0.2f), std::log(0.5f), std::log(0.3f)});
  REQUIRE(nucleus.size() == 2);
  REQUIRE(nucleus.count(0) == 0);
  settings.top_p = 1e-9;
  REQUIRE(draws(settings, {0.f, 1.f, 0.5f}).size() == 1);  // the first always stays

  settings = kPlain;
  settings.repetition_penalty = 2;
  settings.greedy = true;
  REQUIRE(draws(settings, {3.f, 2.f}, {0, 0}, 1).count(1) == 1);   // 3 / 2 < 2, once although it occurs twice
  REQUIRE(draws(settings, {-1.f, -1.5f}, {0}, 1).count(1) == 1);   // negative logits are multiplied
  REQUIRE(draws(settings, {2.f, 2.f, 1.f}, {}, 1).count(0) == 1);  // equal logits: the lower id
}

TEST_CASE("one seed, one sequence; NaN is an error") {
  REQUIRE(draws(kPlain, {0.f, 0.1f, 0.2f}) == draws(kPlain, {0.f, 0.1f, 0.2f}));
  REQUIRE_THROWS_WITH(draws(kPlain, {0.f, NAN}, {}, 1), Catch::Contains("not a number"));
}

}  // namespace omni
