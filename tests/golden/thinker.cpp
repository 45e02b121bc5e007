// The Thinker against the original: outputs, gradients, a training curve, the weights after it, greedy generation.
// Every folder thinker-* in $OMNI_GOLDENS, else in tests/golden/data, is a case.

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/forward_trace.h"
#include "models/generate.h"
#include "tests/golden/compare.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr double kLogitBound = 2e-5, kGradientBound = 1e-4, kCurveBound = 1e-4;

double distance(const ConstView& actual, const ConstView& expected) {
  return omni::distance(values_of(actual), values_of(expected));
}

std::unique_ptr<ThinkerModel> load(const fs::path& path, Device& device) {
  return ThinkerModel::load(path, DType::f32, Purpose::training, device);
}

void check_forward(const fs::path& weights, const fs::path& folder, const std::string& device_name) {
  Device device = Device::named(device_name);
  const auto model = load(weights, device);
  const SafetensorsFile golden(folder / "forward.safetensors");
  const std::vector<NamedTensor> trace =
      trace_forward(device, *model, golden.at("input_ids"), golden.at("labels"), true);
  std::map<std::string, ConstView> actual;
  for (const NamedTensor& entry : trace) actual[entry.name] = entry.tensor;
  std::size_t compared = 0;
  for (const std::string& name : golden.names()) {
    if (name == "input_ids" || name == "labels") continue;
    CAPTURE(name);
    REQUIRE(actual.count(name) == 1);
    const ConstView expected = golden.at(name);
    const bool is_gradient = name.starts_with("grad.");
    const double bound = is_gradient ? kGradientBound * largest(values_of(expected)) : kLogitBound;
    REQUIRE(distance(actual[name], expected) <= bound);
    ++compared;
  }
  REQUIRE(compared == actual.size());
}

}  // namespace

TEST_CASE("outputs and gradients equal the original's, from a model directory") {
  for (const auto& [folder, device] : golden_cases("thinker-")) {
    CAPTURE(folder, device);
    check_forward(folder, folder, device);
  }
}

TEST_CASE("outputs and gradients equal the original's, from its .pth") {
  for (const auto& [folder, device] : golden_cases("thinker-")) {
    CAPTURE(folder, device);
    check_forward(folder / "model_fp16.pth", folder, device);
  }
}

TEST_CASE("train_thinker replays the original's thirty steps: the same curve, the same weights at the end") {
  for (const auto& [folder, device] : golden_cases("thinker-")) {
    CAPTURE(folder, device);
    const SafetensorsFile golden(folder / "curve.safetensors"), after(folder / "after_30_steps.safetensors");
    const std::vector<double> expected = values_of(golden.at("curve"));
    const std::size_t steps = static_cast<std::size_t>(golden.at("curve").shape[0]);
    const TemporaryFolder output;
    const std::string yaml = "stage: pretrain\nmodel: " + folder.string() + "\nreplay: " + folder.string() +
                             "/curve.safetensors\noutput: " + (output / "run").string() +
                             "\nsteps: " + std::to_string(steps) +
                             "\nlearning_rate: 5.0e-4\ngrad_clip: 1.0\ndtype: f32\nsave_dtype: f32\ndevice: " + device;
    std::ostringstream log;
    const MachineLimits limits{1e12, 1e12, 1e11};  // measuring them takes longer than the run
    REQUIRE(train_thinker(parse_recipe(yaml, "replay.yaml"), {.limits = limits}, log) == 0);

    std::ifstream metrics(output / "run/metrics.jsonl");
    std::string line;
    std::getline(metrics, line);  // the header
    for (std::size_t step = 0; step < steps; ++step) {
      CAPTURE(step);
      REQUIRE(std::getline(metrics, line));
      const nlohmann::json actual = nlohmann::json::parse(line);
      std::size_t column = 0;
      for (const char* name : {"loss", "text_loss", "aux_loss", "learning_rate", "grad_norm"}) {
        CAPTURE(name);
        const double value = expected[step * 5 + column++];
        REQUIRE(std::abs(actual.at(name).get<double>() - value) <= kCurveBound * std::abs(value));
      }
    }
    // A weight whose gradients nearly cancel moves by Adam's sign of a rounding error, so weights are compared to the
    // length of the way, about learning rate x steps.
    const SafetensorsFile weights(output / "run/model/model.safetensors");
    for (const std::string& name : weights.names()) {
      CAPTURE(name);
      REQUIRE(distance(weights.at(name), after.at(name)) <= 0.02 * 5e-4 * static_cast<double>(steps));
    }
  }
}

TEST_CASE("greedy generation with a cache gives the original's ids") {
  for (const auto& [folder, device_name] : golden_cases("thinker-")) {
    CAPTURE(folder, device_name);
    Device device = Device::named(device_name);
    // The original generated with the weights at which the curve ends.
    const auto model =
        ThinkerModel::load(folder / "after_30_steps.safetensors", DType::f32, Purpose::inference, device);
    const SafetensorsFile golden(folder / "greedy.safetensors");
    const auto as_ids = [](const ConstView& view) {
      const auto* values = view.as<std::int64_t>();
      return std::vector<std::int32_t>(values, values + view.count());
    };
    const std::vector<std::int32_t> prompt = as_ids(golden.at("prompt")), expected = as_ids(golden.at("ids"));
    TextSequence sequence(device, *model, static_cast<std::int64_t>(expected.size()) + 1);
    std::vector<std::int32_t> actual = prompt;
    const GenerationSettings settings{.sampling = {.temperature = 1, .greedy = true},
                                      .max_new_tokens = static_cast<std::int64_t>(expected.size() - prompt.size())};
    const std::vector<std::int32_t> out = generate(sequence, prompt, settings, -1);
    actual.insert(actual.end(), out.begin(), out.end());
    REQUIRE(actual == expected);
  }
}

}  // namespace omni
