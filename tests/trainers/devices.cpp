// Training runs on every device that is there follow one curve.

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <sstream>

#include "kernels/cuda/runtime.h"
#include "tests/trainers/small_run.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

std::vector<double> losses_of(const std::filesystem::path& output) {
  std::ifstream in(output / "metrics.jsonl");
  std::vector<double> out;
  std::string line;
  std::getline(in, line);  // the header
  while (std::getline(in, line)) out.push_back(nlohmann::json::parse(line).at("loss"));
  return out;
}

}  // namespace

TEST_CASE("ten steps on a GPU: the losses of the CPU; twice the same bytes") {
  if (cuda_device_count() == 0) {
    WARN("no GPU: nothing to compare");
    return;
  }
  for (const std::string experts : {"false", "true"})
    for (const std::string dtype : {"f32", "bf16"}) {
      CAPTURE(experts, dtype);
      const SmallRun run;
      for (const std::string name : {"cpu", "cuda", "again"}) {
        const std::string device = name == "again" ? "cuda" : name;
        std::ostringstream log;
        const Recipe recipe = run.recipe(
            name, {"steps=10", "dtype=" + dtype, "device=" + device, "config.use_moe=" + experts, "workers=1"});
        REQUIRE(train_thinker(recipe, {.limits = MachineLimits{1e12, 1e12, 1e11}}, log) == 0);
      }
      const auto cpu = losses_of(run.folder / "cpu"), cuda = losses_of(run.folder / "cuda");
      REQUIRE(cpu.size() == 10);
      REQUIRE(cuda.size() == 10);
      for (std::size_t i = 0; i < cpu.size(); ++i)
        REQUIRE(std::abs(cuda[i] - cpu[i]) <= (dtype == "bf16" ? 2e-2 : 1e-4) * cpu[i]);
      REQUIRE(files_of(run.folder / "cuda/model") == files_of(run.folder / "again/model"));
    }
}

}  // namespace omni
