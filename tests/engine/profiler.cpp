#include "engine/profiler.h"

#include <catch2/catch.hpp>
#include <sstream>

#include "engine/device.h"
#include "kernels/elementwise/elementwise.h"

using namespace omni;

TEST_CASE("the device counts nothing while the profiler is off, sums in totals, and lists operands in list") {
  Device device = Device::cpu(1);
  float memory[6] = {1, 2, 3, 4, 5, 6};
  const View x = view_of(memory, {2, 3});
  Profiler& profiler = device.profiler();
  device.run(Scale{.y = x, .x = x, .factor = 2});
  REQUIRE(profiler.totals().empty());

  profiler.set_mode(Profiler::Mode::totals);
  device.run(Scale{.y = x, .x = x, .factor = 2});
  device.run(Scale{.y = x, .x = x, .factor = 2});
  device.run(Fill{.y = x, .value = 1});
  REQUIRE(profiler.executions().empty());
  REQUIRE(profiler.totals().size() == 2);
  for (const Profiler::Entry& entry : profiler.totals()) {
    const bool is_scale = entry.instruction == "scale";
    REQUIRE(entry.calls == (is_scale ? 2 : 1));
    REQUIRE(entry.work.bytes == (is_scale ? 2 * 48 : 24));
    REQUIRE(entry.work.flops == (is_scale ? 2 * 6 : 0));
    REQUIRE(entry.seconds >= 0);
  }

  profiler.clear();
  profiler.set_mode(Profiler::Mode::list);
  device.run(Add{.y = x, .a = x, .b = x});
  REQUIRE(profiler.executions().size() == 1);
  REQUIRE(profiler.executions()[0].instruction == "add");
  REQUIRE(profiler.executions()[0].operands == "y f32 [2, 3], a f32 [2, 3], b f32 [2, 3]");
}

TEST_CASE("an observer sees each instruction after it has run, and which operands it may write") {
  Device device = Device::cpu(1);
  float memory[2] = {1, 2}, sum[2] = {0, 0};
  const View x = view_of(memory, Shape{2}), y = view_of(sum, Shape{2});
  int seen = 0;
  device.set_observer([&](const Execution& execution) {
    ++seen;
    REQUIRE(std::string(execution.instruction) == "add");
    REQUIRE(execution.operands.size() == 3);
    REQUIRE(execution.operands[0].name == "y");
    REQUIRE(execution.operands[0].view.written);
    REQUIRE(execution.operands[0].view.as<float>()[1] == 4);
    REQUIRE_FALSE(execution.operands[1].view.written);
    REQUIRE(execution.work.bytes == 24);
    REQUIRE(execution.seconds >= 0);
  });
  device.run(Add{.y = y, .a = x, .b = x});
  REQUIRE(device.profiler().totals().empty());
  device.set_observer({});
  device.run(Add{.y = y, .a = x, .b = x});
  REQUIRE(seen == 1);
}

TEST_CASE("totals come most expensive first, and the report measures against the machine's limit") {
  Profiler profiler;
  profiler.set_mode(Profiler::Mode::totals);
  profiler.add("small", "", {.bytes = 1000, .flops = 10}, 0.25);
  profiler.add("large", "", {.bytes = 4000000000, .flops = 1000000000}, 4);  // bound by memory: 2 s of 4
  profiler.add("large", "", {.bytes = 0, .flops = 4000000000}, 4);           // bound by arithmetic: 1 s of 4
  REQUIRE(profiler.totals()[0].instruction == "large");
  REQUIRE(profiler.totals()[1].instruction == "small");
  const MachineLimits limits{.f32_flops_per_s = 4e9, .bf16_flops_per_s = 8e9, .bytes_per_s = 2e9};
  REQUIRE(limits.seconds({.bytes = 0, .flops = 8000000000, .unit = DType::bf16}) == 1);
  std::ostringstream out;
  profiler.report(out, limits);
  REQUIRE(out.str().find("37.5%") != std::string::npos);  // (2 + 1) / 8
  profiler.clear();
  REQUIRE(profiler.totals().empty());
}

TEST_CASE("a device is the CPU, and says why it is not another") {
  REQUIRE_NOTHROW(Device::named("cpu", 1));
  // A build with CUDA kernels fails as well: in want of a driver, or of so many GPUs.
  REQUIRE_THROWS_WITH(Device::named("cuda:99"), Catch::Contains(kHasCuda ? "cuda:" : "no CUDA kernels"));
  REQUIRE_THROWS_WITH(Device::named("cuda:x"), Catch::Contains("expected cpu, cuda or cuda:N, found \"cuda:x\""));
  REQUIRE_THROWS_WITH(Device::named("tpu"), Catch::Contains("expected cpu, cuda or cuda:N, found \"tpu\""));
}
