// Training runs on every device that is there follow one curve.

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>

#include "kernels/cuda/runtime.h"
#include "tests/trainers/small_omni_run.h"
#include "trainers/talker_trainer.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

std::vector<double> column_of(const std::filesystem::path& output, const std::string& name) {
  std::ifstream in(output / "metrics.jsonl");
  std::vector<double> out;
  std::string line;
  std::getline(in, line);  // the header
  while (std::getline(in, line)) out.push_back(nlohmann::json::parse(line).at(name));
  return out;
}

// Ten steps of the CPU, and of a GPU twice. train(device, output) leaves a run in the folder `output`.
void compare_devices(const std::filesystem::path& folder, const std::string& dtype,
                     const std::vector<std::string>& columns,
                     const std::function<int(const std::string& device, const std::string& output)>& train) {
  for (const std::string name : {"cpu", "cuda", "again"}) REQUIRE(train(name == "again" ? "cuda" : name, name) == 0);
  for (const std::string& column : columns) {
    CAPTURE(column);
    const auto cpu = column_of(folder / "cpu", column), cuda = column_of(folder / "cuda", column);
    REQUIRE(cpu.size() == 10);
    REQUIRE(cuda.size() == 10);
    for (std::size_t i = 0; i < cpu.size(); ++i)
      REQUIRE(std::abs(cuda[i] - cpu[i]) <= (dtype == "bf16" ? 2e-2 : 1e-4) * cpu[i]);
  }
  REQUIRE(files_of(folder / "cuda/model") == files_of(folder / "again/model"));
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
      compare_devices(run.folder.path(), dtype, {"loss"}, [&](const std::string& device, const std::string& output) {
        std::ostringstream log;
        const Recipe recipe = run.recipe(
            output, {"steps=10", "dtype=" + dtype, "device=" + device, "config.use_moe=" + experts, "workers=1"});
        return train_thinker(recipe, {.limits = MachineLimits{1e12, 1e12, 1e11}}, log);
      });
    }
}

// The CPU takes the rows of a dense model's batch one after the other, a GPU all at once.
TEST_CASE("ten steps of the omni model on a GPU: the losses of the CPU; twice the same bytes") {
  if (cuda_device_count() == 0) {
    WARN("no GPU: nothing to compare");
    return;
  }
  const SmallOmniRun run;
  for (const std::string experts : {"false", "true"})
    for (const std::string dtype : {"f32", "bf16"}) {
      CAPTURE(experts, dtype);
      compare_devices(
          run.folder.path(), dtype, {"loss", "text_loss", "audio_loss", "audio_loss_0", "audio_loss_7", "grad_norm"},
          [&](const std::string& device, const std::string& output) {
            std::ostringstream log;
            const TalkerRecipe recipe = run.recipe(
                output, {"dtype=" + dtype, "device=" + device, "config.use_moe=" + experts, "overwrite=true"});
            return train_talker(recipe, {.limits = MachineLimits{1e12, 1e12, 1e11}}, log);
          });
    }
}

}  // namespace omni
