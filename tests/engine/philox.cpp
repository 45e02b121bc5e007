#include "engine/philox.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <vector>

using namespace omni;

TEST_CASE("philox4x32-10 gives the published answers") {
  // The known-answer tests of Random123 (D. E. Shaw Research), kat_vectors.
  using Block = std::array<std::uint32_t, 4>;
  REQUIRE(philox4x32({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  REQUIRE(philox4x32({ones, ones, ones, ones}, {ones, ones}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  REQUIRE(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("sequences depend on seed, stream and step, and on nothing else") {
  const auto draw = [](std::uint64_t seed, RandomStream stream, std::uint64_t step) {
    Philox random(seed, stream, step);
    std::vector<std::uint32_t> out;
    for (int i = 0; i < 9; ++i) out.push_back(random.next());
    return out;
  };
  REQUIRE(draw(42, RandomStream::test, 7) == draw(42, RandomStream::test, 7));
  std::set<std::vector<std::uint32_t>> distinct;
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
    for (const RandomStream stream : {RandomStream::initialization, RandomStream::sampling, RandomStream::test})
      for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32})
        distinct.insert(draw(seed, stream, step));
  REQUIRE(distinct.size() == 27);
}

TEST_CASE("uniform, below and normal have their distributions") {
  Philox random(1, RandomStream::test);
  const int count = 40000;
  double sum = 0, least = 1, most = 0;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform();
    sum += u;
    least = std::min(least, u);
    most = std::max(most, u);
  }
  REQUIRE(least >= 0);
  REQUIRE(least < 1e-3);
  REQUIRE(most < 1);
  REQUIRE(most > 0.999);
  REQUIRE(std::fabs(sum / count - 0.5) < 5 * std::sqrt(1. / 12 / count));

  std::vector<int> hits(7, 0);
  for (int i = 0; i < count; ++i) ++hits.at(random.below(7));
  for (const int hit : hits) REQUIRE(std::fabs(hit - count / 7.) < 5 * std::sqrt(count / 7.));
  REQUIRE(random.below(1) == 0);

  double moments[5] = {};
  for (int i = 0; i < count; ++i) {
    const double x = random.normal();
    for (int k = 1; k <= 4; ++k) moments[k] += std::pow(x, k) / count;
  }
  REQUIRE(std::fabs(moments[1]) < 5 * std::sqrt(1. / count));
  REQUIRE(std::fabs(moments[2] - 1) < 5 * std::sqrt(2. / count));
  REQUIRE(std::fabs(moments[3]) < 5 * std::sqrt(15. / count));
  REQUIRE(std::fabs(moments[4] - 3) < 5 * std::sqrt(96. / count));
}
