// The omni model against the original: outputs, gradients, a training curve. Every folder omni-* with a model in
// $OMNI_GOLDENS is a case.

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "models/forward_trace.h"
#include "tests/golden/compare.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"
#include "trainers/talker_trainer.h"

namespace omni {
namespace {

constexpr double kOutputBound = 2e-5, kGradientBound = 1e-4, kCurveBound = 1e-4;

std::vector<double> first_rows(const ConstView& view, std::int64_t rows) {
  return values_of(slice(view, 0, {std::min(rows, view.rows()), view.width()}));
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// Positions 0, 4, 8, ... of audio_logits [batch, 8, time, codes].
std::vector<double> every_fourth(const ConstView& logits) {
  const std::int64_t time = logits.shape[2], codes = logits.shape[3];
  std::vector<double> out;
  for (std::int64_t i = 0; i < logits.shape[0] * logits.shape[1]; ++i)
    for (std::int64_t t = 0; t < time; t += 4)
      for (const double value : values_of(slice(logits, (i * time + t) * codes, {codes}))) out.push_back(value);
  return out;
}

// What a golden tensor is to be compared with.
std::vector<double> counterpart(const std::string& name, const std::map<std::string, ConstView>& actual) {
  const auto find = [&](const std::string& key) {
    CAPTURE(key);
    REQUIRE(actual.count(key) == 1);
    return actual.at(key);
  };
  if (name == "audio_logits.every_4th") return every_fourth(find("audio_logits"));
  if (name.starts_with("grad_first_48_rows."))
    return first_rows(find("grad." + name.substr(std::string("grad_first_48_rows.").size())), 48);
  if (name.starts_with("grad_norm."))
    return {norm(values_of(find("grad." + name.substr(std::string("grad_norm.").size()))))};
  return values_of(find(name));
}

}  // namespace

TEST_CASE("omni outputs and gradients equal the original's") {
  for (const auto& [folder, device_name] : golden_cases("omni-")) {
    CAPTURE(folder, device_name);
    Device device = Device::named(device_name);
    const auto model = OmniModel::load(folder, DType::f32, Purpose::training, device);
    const SafetensorsFile golden(folder / "forward.safetensors");
    const std::vector<NamedTensor> trace = trace_omni(device, *model, read_omni_batch(golden), true);
    std::map<std::string, ConstView> actual;
    for (const NamedTensor& entry : trace) actual[entry.name] = entry.tensor;
    std::size_t compared = 0;
    for (const std::string& name : golden.names()) {
      if (golden.at(name).dtype == DType::i64 || name == "audio_states" || name == "image_states" || name == "spk_emb")
        continue;
      CAPTURE(name);
      const std::vector<double> expected = values_of(golden.at(name));
      // With one expert per token its weight is 1 whatever the router says, so the losses have no gradient there. The
      // original gets rounding errors of f32 instead of zero (5e-9 from the same in double).
      const bool is_noise = model->config.thinker.num_experts_per_tok == 1 && name.ends_with("mlp.gate.weight");
      const double bound =
          (name.starts_with("grad") ? kGradientBound : kOutputBound) * largest(expected) + (is_noise ? 1e-8 : 0);
      REQUIRE(distance(counterpart(name, actual), expected) <= bound);
      ++compared;
    }
    REQUIRE(compared > 50);
  }
}

TEST_CASE("train_talker replays the original's thirty steps") {
  for (const auto& [folder, device] : golden_cases("omni-")) {
    CAPTURE(folder, device);
    const SafetensorsFile golden(folder / "curve.safetensors"), after(folder / "after_30_steps_small.safetensors");
    const std::vector<double> expected = values_of(golden.at("curve"));
    const std::size_t steps = static_cast<std::size_t>(golden.at("curve").shape[0]);
    const TemporaryFolder output;
    const std::string yaml = "model: " + folder.string() + "\nreplay: " + folder.string() +
                             "/curve.safetensors\noutput: " + (output / "run").string() +
                             "\nsteps: " + std::to_string(steps) +
                             "\nlearning_rate: 5.0e-4\ngrad_clip: 1.0\ndtype: f32\ndevice: " + device;
    std::ostringstream log;
    const MachineLimits limits{1e12, 1e12, 1e11};  // measuring them takes longer than the run
    REQUIRE(train_talker(parse_talker_recipe(yaml, "replay.yaml"), {.limits = limits}, log) == 0);

    std::ifstream metrics(output / "run/metrics.jsonl");
    std::string line;
    std::getline(metrics, line);  // the header
    for (std::size_t step = 0; step < steps; ++step) {
      CAPTURE(step);
      REQUIRE(std::getline(metrics, line));
      const nlohmann::json actual = nlohmann::json::parse(line);
      std::size_t column = 0;
      for (const char* name : {"loss", "text_loss", "audio_loss", "aux_loss", "learning_rate", "grad_norm"}) {
        CAPTURE(name);
        const double value = expected[step * 6 + column++];
        REQUIRE(std::abs(actual.at(name).get<double>() - value) <= kCurveBound * std::abs(value));
      }
    }
    // Compared to the length of the way, as in thinker.cpp.
    const SafetensorsFile weights(output / "run/model/model.safetensors");
    REQUIRE(after.names().size() > 10);
    for (const std::string& name : after.names()) {
      CAPTURE(name);
      REQUIRE(distance(values_of(weights.at(name)), values_of(after.at(name))) <=
              0.02 * 5e-4 * static_cast<double>(steps));
    }
  }
}

}  // namespace omni
