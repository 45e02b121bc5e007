#include "models/rope.h"

#include <catch2/catch.hpp>
#include <cmath>

namespace omni {

TEST_CASE("rotary angles of the model, at known positions") {
  Device device = Device::cpu();
  RopeTable rope(96, 1e6, 32768, {});
  const RopeAngles angles = rope.angles(device, 32768, DType::f32);
  struct Known {
    std::int64_t position, pair;
    double cosine, sine;
  };
  for (const Known& known : {Known{1, 0, 0.540302336, 0.841470957}, Known{1, 1, 0.731760979, 0.681561351},
                             Known{1, 47, 1.0, 0.000001334}, Known{100, 0, 0.862318873, -0.506365657},
                             Known{100, 10, 0.790132165, -0.612936497}, Known{1000, 5, -0.052830603, -0.998603463},
                             Known{32767, 0, 0.982263327, 0.187506557}, Known{32767, 20, -0.998532236, 0.054160997}}) {
    CAPTURE(known.position, known.pair);
    const std::int64_t at = known.position * 48 + known.pair;
    REQUIRE(std::abs(angles.cosine.as<float>()[at] - known.cosine) <= 1e-6);
    REQUIRE(std::abs(angles.sine.as<float>()[at] - known.sine) <= 1e-6);
  }
}

TEST_CASE("YaRN stretches slow frequencies by its factor and keeps fast ones") {
  Device device = Device::cpu();
  const RopeTable plain(96, 1e6, 32768, {}), yarn(96, 1e6, 32768, YarnScaling{});
  const auto relative = [&](std::size_t i, double expected) {
    return std::abs(yarn.frequencies()[i] - expected) / expected;
  };
  REQUIRE(yarn.frequencies()[0] == 1);
  REQUIRE(yarn.frequencies()[8] == plain.frequencies()[8]);
  REQUIRE(relative(9, 0.0695815235) <= 1e-6);
  REQUIRE(relative(15, 0.00660349568) <= 1e-6);
  REQUIRE(relative(20, 0.000425691251) <= 1e-6);
  REQUIRE(relative(21, 0.000148210864) <= 1e-6);
  REQUIRE(relative(47, 8.33450642e-08) <= 1e-6);
  // A table no longer than what the model was trained with needs no stretch.
  REQUIRE(RopeTable(96, 1e6, 2048, YarnScaling{}).frequencies() == plain.frequencies());
}

TEST_CASE("the table grows on demand, up to the model's limit") {
  Device device = Device::cpu();
  RopeTable rope(4, 100, 1000, {});
  const double first = rope.angles(device, 3, DType::f64).sine.as<double>()[2];
  REQUIRE(rope.angles(device, 900, DType::f64).sine.shape[0] >= 900);
  REQUIRE(rope.angles(device, 900, DType::f64).sine.as<double>()[2] == first);
  REQUIRE_THROWS_WITH(rope.angles(device, 1001, DType::f64), Catch::Contains("max_position_embeddings is 1000"));
}

}  // namespace omni
