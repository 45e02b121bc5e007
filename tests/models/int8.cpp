// Models with weights in i8.

#include <catch2/catch.hpp>
#include <cmath>

#include "models/forward_trace.h"
#include "models/generate.h"
#include "models/speech_generation.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

double length(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("quantize: every row keeps its largest number, and no other moves by more than half a step") {
  Device device = Device::cpu(2);
  const OmniConfig config = small_config_in_file(false);
  const TemporaryFolder folder;
  OmniModel::create(config, DType::f32, 3, device)->save(folder.path(), DType::f32);
  const auto plain = OmniModel::load(folder.path(), DType::f32, Purpose::inference, device),
             quantized = OmniModel::load(folder.path(), DType::i8, Purpose::inference, device);
  REQUIRE(quantized->store.dtype() == DType::f32);
  std::size_t matrices = 0;
  for (std::size_t i = 0; i < plain->store.parameters().size(); ++i) {
    const Parameter &before = plain->store.parameters()[i], &after = quantized->store.parameters()[i];
    CAPTURE(before.parts.front().name);
    if (!after.scale) {
      REQUIRE(before.parts.front().shape.rank() < 2);
      REQUIRE(same_bits(before.value, after.value));
      continue;
    }
    ++matrices;
    for (std::int64_t row = 0; row < before.value.rows(); ++row) {
      const std::int64_t width = before.value.width();
      const float* values = before.value.as<float>() + row * width;
      const float scale = after.scale.as<float>()[row];
      int largest = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        const int whole = after.value.as<std::int8_t>()[row * width + j];
        largest = std::max(largest, std::abs(whole));
        REQUIRE(std::abs(static_cast<float>(whole) * scale - values[j]) <= 0.501f * scale);
      }
      REQUIRE(largest == 127);
    }
  }
  REQUIRE(matrices > 15);
}

TEST_CASE("a model in i8 computes nearly what it computes in f32, and decodes what it computes in one pass") {
  Device device = Device::cpu(2);
  for (const bool use_moe : {false, true}) {
    CAPTURE(use_moe);
    const OmniConfig config = small_config_in_file(use_moe);
    const TemporaryFolder folder;
    OmniModel::create(config, DType::f32, 3, device)->save(folder.path(), DType::f32);
    const auto plain = OmniModel::load(folder.path(), DType::f32, Purpose::inference, device),
               quantized = OmniModel::load(folder.path(), DType::i8, Purpose::inference, device);
    const OwnedTensor ids = random_ids({2, kCodebooks + 1, 9}, 1, 8);
    OmniBatch batch;
    batch.input_ids = ids;
    const auto expected = trace_omni(device, *plain, batch, false),
               actual = trace_omni(device, *quantized, batch, false);
    REQUIRE(expected.size() == actual.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(expected[i].name);
      std::vector<double> difference = values_of(actual[i].tensor);
      const std::vector<double> values = values_of(expected[i].tensor);
      for (std::size_t j = 0; j < values.size(); ++j) difference[j] -= values[j];
      REQUIRE(length(difference) > 0);
      if (!use_moe) REQUIRE(length(difference) <= 0.03 * length(values));  // a token near a border may change experts
    }
    SpeechRequest request{.prompt = {.ids = {7, 8, 9}}, .settings = {.greedy = true, .max_new_tokens = 12}};
    request.settings.enter_token_id = 3;
    SpeechGenerator generator(device, *quantized, 1, 32);
    const SpeechResult answer = generator.generate(std::span(&request, 1))[0];
    std::vector<std::int32_t> seen = request.prompt.ids;
    for (const std::int32_t id : answer.text) {
      OmniSequences fresh(device, *quantized, 1, 32);
      fresh.show(0, {.ids = seen});  // the Thinker hears no codes
      const std::vector<double> logits = values_of(fresh.logits().text);
      REQUIRE(std::max_element(logits.begin(), logits.end()) - logits.begin() == id);
      seen.push_back(id);
    }
  }
}

TEST_CASE("weights in i8 are for inference on the CPU") {
  Device device = Device::cpu(1);
  const auto training = OmniModel::create(small_config_in_file(false), DType::f32, 3, device);
  REQUIRE_THROWS_WITH(training->store.quantize(), Catch::Contains("int8 weights are for inference on the CPU"));
  if (cuda_device_count() == 0) return;
  const TemporaryFolder folder;
  training->save(folder.path(), DType::f32);
  Device gpu = Device::named("cuda");
  REQUIRE_THROWS_WITH(OmniModel::load(folder.path(), DType::i8, Purpose::inference, gpu),
                      Catch::Contains("int8 weights are for inference on the CPU"));
}

}  // namespace omni
