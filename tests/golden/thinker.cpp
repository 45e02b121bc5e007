// The Thinker against the original: outputs, gradients, a training curve, the weights after it, greedy generation.
// Every folder thinker-* in $OMNI_GOLDENS, else in tests/golden/data, is a case.

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "autograd/optimizer.h"
#include "models/forward_trace.h"
#include "models/generate.h"
#include "models/text_loss.h"
#include "tests/support/numbers.h"
#include "trainers/schedule.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr double kLogitBound = 2e-5, kGradientBound = 1e-4, kCurveBound = 1e-4;

std::vector<fs::path> cases() {
  const char* goldens = std::getenv("OMNI_GOLDENS");
  const fs::path root = goldens ? fs::path(goldens) : fs::path(OMNI_SOURCE_DIR) / "tests/golden/data";
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.is_directory() && entry.path().filename().string().starts_with("thinker-")) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  if (out.empty()) FAIL("no golden data: expected folders thinker-* in " << root);
  return out;
}

double largest(const std::vector<double>& values) {
  double out = 0;
  for (const double value : values) out = std::max(out, std::abs(value));
  return out;
}

// The largest difference; infinite if any is NaN.
double distance(const ConstView& actual, const ConstView& expected) {
  const auto a = values_of(actual), b = values_of(expected);
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

std::unique_ptr<ThinkerModel> load(const fs::path& path, Device& device) {
  return ThinkerModel::load(path, DType::f32, Purpose::training, device);
}

void check_forward(const fs::path& weights, const fs::path& folder) {
  Device device = Device::cpu();
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
  for (const fs::path& folder : cases()) {
    CAPTURE(folder);
    check_forward(folder, folder);
  }
}

TEST_CASE("outputs and gradients equal the original's, from its .pth") {
  for (const fs::path& folder : cases()) {
    CAPTURE(folder);
    check_forward(folder / "model_fp16.pth", folder);
  }
}

TEST_CASE("thirty training steps follow the original's curve and end at its weights") {
  for (const fs::path& folder : cases()) {
    CAPTURE(folder);
    Device device = Device::cpu();
    const auto model = load(folder, device);
    const SafetensorsFile golden(folder / "curve.safetensors"), after(folder / "after_30_steps.safetensors");
    const ConstView ids = golden.at("input_ids"), labels = golden.at("labels"), curve = golden.at("curve");
    const Shape shape{ids.shape[1], ids.shape[2]};
    AdamWOptimizer optimizer(model->store);
    Tape tape(device);
    const std::vector<double> expected = values_of(curve);
    const std::int64_t steps = curve.shape[0];
    for (std::int64_t step = 1; step <= steps; ++step) {
      CAPTURE(step);
      const std::int64_t batch = (step - 1) % ids.shape[0] * shape.count();
      const double rate = Schedule::make(steps, 1, steps, 0).learning_rate(5e-4, step);
      const TextLoss loss = text_loss(tape, model->thinker, view_of(ids.as<std::int64_t>() + batch, shape),
                                      view_of(labels.as<std::int64_t>() + batch, shape));
      tape.backward(loss.loss);
      const double actual[] = {values_of(loss.loss)[0], values_of(loss.text_loss)[0],
                               loss.aux_loss ? values_of(loss.aux_loss)[0] : 0, rate, optimizer.step(rate, 1.0)};
      for (int column = 0; column < 5; ++column) {
        CAPTURE(column);
        const double value = expected[static_cast<std::size_t>((step - 1) * 5 + column)];
        REQUIRE(std::abs(actual[column] - value) <= kCurveBound * std::abs(value));
      }
      tape.reset();
    }
    // A weight whose gradients nearly cancel moves by Adam's sign of a rounding error, so weights are compared to the
    // length of the way, about learning rate x steps.
    for (const auto& [name, weights] : model->store.named_masters()) {
      CAPTURE(name);
      REQUIRE(distance(weights, after.at(name)) <= 0.02 * 5e-4 * static_cast<double>(steps));
    }
  }
}

TEST_CASE("greedy generation with a cache gives the original's ids") {
  for (const fs::path& folder : cases()) {
    CAPTURE(folder);
    Device device = Device::cpu();
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
