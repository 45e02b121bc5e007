// The whole model on every device that is there: what a GPU computes is what the CPU computes.

#include <cmath>

#include "models/generate.h"
#include "models/speech_generation.h"
#include "models/text_loss.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

struct Case {
  bool use_moe;
  std::int64_t hidden_size, head_dim, intermediate_size, vocab_size;
};

// A width that the tensor-core kernels take, with the real model's head size, and one of odd sizes.
constexpr Case kCases[] = {
    {false, 64, 96, 80, 101}, {true, 64, 32, 48, 101}, {false, 28, 6, 22, 37}, {true, 20, 10, 14, 37}};

ThinkerConfig config_of(const Case& size) {
  ThinkerConfig config;
  config.hidden_size = size.hidden_size;
  config.num_hidden_layers = 2;
  config.vocab_size = size.vocab_size;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = size.head_dim;
  config.intermediate_size = config.moe_intermediate_size = size.intermediate_size;
  config.max_position_embeddings = 256;
  config.use_moe = size.use_moe;
  config.num_experts = 3;
  config.num_experts_per_tok = 2;
  return config;
}

std::vector<std::string> device_names() {
  return cuda_device_count() > 0 ? std::vector<std::string>{"cpu", "cuda"} : std::vector<std::string>{"cpu"};
}

struct Step {
  double loss;
  std::vector<std::string> names;
  std::vector<std::vector<double>> gradients;
};

Step run_step(const ThinkerConfig& config, DType dtype, const std::string& device_name) {
  Device device = Device::named(device_name, 2);
  const auto model = ThinkerModel::create(config, dtype, 7, device);
  const OwnedTensor ids = random_ids({3, 70}, 5, config.vocab_size), labels = random_ids({3, 70}, 6, config.vocab_size);
  for (std::int64_t i = 0; i < labels.view().count(); ++i)
    if (i % 70 > 50 || i % 3 == 0) labels.as<std::int64_t>()[i] = -100;
  Tape tape(device);
  const TextLoss loss = text_loss(tape, model->thinker, ids, labels);
  Step out{device.read<float>(loss.loss), {}, {}};
  tape.backward(loss.loss);
  model->store.complete_gradients();
  std::vector<OwnedTensor> memory;
  for (const auto& [name, gradient] : model->store.named_gradients()) {
    out.names.push_back(name);
    out.gradients.push_back(values_of(device.on_host(gradient, memory)));
  }
  return out;
}

double length_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("loss and gradients are the same on every device, twice with the same bits") {
  for (const Case& size : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(size.use_moe, size.hidden_size, name_of(dtype));
      const Step expected = run_step(config_of(size), dtype, "cpu");
      for (const std::string& device : device_names()) {
        CAPTURE(device);
        const Step actual = run_step(config_of(size), dtype, device);
        // In bf16 each activation is rounded to 8 bits, and the devices round different sums.
        REQUIRE(std::abs(actual.loss - expected.loss) <= (dtype == DType::bf16 ? 4e-3 : 1e-5) * expected.loss);
        for (std::size_t i = 0; i < expected.names.size(); ++i) {
          CAPTURE(expected.names[i]);
          std::vector<double> difference = actual.gradients[i];
          for (std::size_t j = 0; j < difference.size(); ++j) difference[j] -= expected.gradients[i][j];
          const double bound = dtype == DType::bf16 ? 6e-2 : 1e-4;
          REQUIRE(length_of(difference) <= bound * length_of(expected.gradients[i]));
        }
        const Step again = run_step(config_of(size), dtype, device);
        REQUIRE(again.loss == actual.loss);
        REQUIRE(again.gradients == actual.gradients);
      }
    }
}

TEST_CASE("greedy generation gives the same ids on every device") {
  for (const Case& size : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(size.use_moe, size.hidden_size, name_of(dtype));
      const TemporaryFolder folder;
      std::vector<std::int32_t> expected;
      for (const std::string& name : device_names()) {
        CAPTURE(name);
        Device device = Device::named(name, 2);
        if (expected.empty()) ThinkerModel::create(config_of(size), DType::f32, 11, device)->save(folder.path(), dtype);
        const auto model = ThinkerModel::load(folder.path(), dtype, Purpose::inference, device);
        TextSequence sequence(device, *model, 64);
        const std::vector<std::int32_t> prompt{3, 14, 15, 9, 2};
        const GenerationSettings settings{.sampling = {.temperature = 1, .greedy = true}, .max_new_tokens = 24};
        const std::vector<std::int32_t> ids = generate(sequence, prompt, settings, -1);
        REQUIRE(ids.size() == 24);
        if (expected.empty()) expected = ids;
        if (dtype == DType::f32) REQUIRE(ids == expected);
        // The same sequence object again, after a longer prompt has moved its memory.
        const std::vector<std::int32_t> longer(40, 7);
        sequence.show(longer);
        REQUIRE(generate(sequence, prompt, settings, -1) == ids);
      }
    }
}

TEST_CASE("speech is the same text and codes on every device, greedy and drawn") {
  OwnedTensor codes(DType::i64, {kCodebooks, 3});
  for (std::int64_t i = 0; i < codes.view().count(); ++i) codes.as<std::int64_t>()[i] = i * 5 % 8;
  const OwnedTensor audio_states = randn({2, 6}, 4, DType::f32), image_states = randn({3, 5}, 5, DType::f32),
                    spk_emb = randn({4}, 6, DType::f32);
  for (const bool use_moe : {false, true})
    for (const bool greedy : {false, true}) {
      OmniConfig config = small_config(use_moe);
      config.audio_vocab_size = 2011;  // so many that hardly any ends the speech
      config.audio_pad_token = 2008;
      config.audio_stop_token = 2009;
      config.audio_spk_token = 2010;
      const auto audio = static_cast<std::int32_t>(config.audio_placeholder_id),
                 image = static_cast<std::int32_t>(config.image_placeholder_id);
      std::vector<SpeechRequest> requests(2);
      requests[0].prompt = {.ids = {7, audio, audio, 30, image, image, image, 9, 4, 11, 31},
                            .ref_codes = codes,
                            .spk_emb = spk_emb,
                            .audio_states = audio_states,
                            .image_states = image_states};
      requests[1].prompt = {.ids = {1, 2, 3}};
      for (SpeechRequest& request : requests)
        request.settings = {.temperature = 2,
                            .top_p = 1,
                            .repetition_penalty = 1.2,
                            .greedy = greedy,
                            .max_new_tokens = 30,
                            .enter_token_id = 3};
      std::vector<SpeechResult> expected;
      for (const std::string& name : device_names()) {
        Device device = Device::named(name, 2);
        const auto model = OmniModel::create(config, DType::f32, 9, device);
        SpeechGenerator generator(device, *model, 2, 64);
        const std::vector<SpeechResult> actual = generator.generate(requests);
        if (expected.empty()) expected = actual;
        for (std::size_t i = 0; i < actual.size(); ++i) {
          CAPTURE(use_moe, greedy, name, i);
          REQUIRE(actual[i].frames.size() > 1);
          REQUIRE((greedy || actual[i].frames.front() != actual[i].frames.back()));
          REQUIRE(actual[i].text == expected[i].text);
          REQUIRE(actual[i].frames == expected[i].frames);
        }
      }
    }
}

TEST_CASE("an id outside of the vocabulary is an error on every device") {
  for (const std::string& name : device_names()) {
    CAPTURE(name);
    Device device = Device::named(name, 2);
    const ThinkerConfig config = config_of(kCases[2]);
    const auto model = ThinkerModel::create(config, DType::f32, 7, device);
    const OwnedTensor ids = random_ids({1, 9}, 5, config.vocab_size);
    ids.as<std::int64_t>()[4] = config.vocab_size;
    Tape tape(device);
    REQUIRE_THROWS_WITH(device.read<float>(text_loss(tape, model->thinker, ids, ids).loss),
                        Catch::Contains("37, expected 0 .. 36"));
  }
}

}  // namespace omni
