// Generation of text and speech by small models, on every device that is there.

#include "models/speech_generation.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/cuda/runtime.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

std::vector<std::string> device_names() {
  return cuda_device_count() > 0 ? std::vector<std::string>{"cpu", "cuda"} : std::vector<std::string>{"cpu"};
}

// Nine rows of random text and codes; the speaker code stands at one place.
struct Columns {
  std::vector<std::int32_t> text;
  std::vector<SpeechFrame> codes;

  Columns(std::int64_t count, std::uint64_t seed, const OmniConfig& config) {
    const OwnedTensor ids = random_ids({count, kCodebooks + 1}, seed, 8);
    for (std::int64_t t = 0; t < count; ++t) {
      const std::int64_t* row = ids.as<std::int64_t>() + t * (kCodebooks + 1);
      std::copy_n(row, kCodebooks, codes.emplace_back().begin());
      text.push_back(static_cast<std::int32_t>(row[kCodebooks]));
    }
    codes[static_cast<std::size_t>(count - 2)].fill(config.audio_spk_token);
  }
};

// Two sequences of different lengths, their sound, picture and speaker.
struct Material {
  OmniConfig config;
  std::vector<Columns> columns;
  OwnedTensor audio_states = randn({2, 6}, 4, DType::f32), image_states = randn({3, 5}, 5, DType::f32),
              spk_emb = randn({4}, 6, DType::f32);

  explicit Material(bool use_moe) : config(small_config(use_moe)) {
    for (const std::int64_t count : {14, 11})
      columns.emplace_back(count, 20 + static_cast<std::uint64_t>(count), config);
    columns[0].text[1] = columns[0].text[2] = static_cast<std::int32_t>(config.audio_placeholder_id);
    columns[0].text[4] = static_cast<std::int32_t>(config.image_placeholder_id);
  }
  // The first `count` columns of a sequence as a prompt. `codes` must outlive it.
  SpeechPrompt prompt(std::size_t sequence, std::int64_t count, OwnedTensor& codes) const {
    const Columns& all = columns[sequence];
    codes = zeros(DType::i64, {kCodebooks, count});
    for (std::int64_t t = 0; t < count; ++t)
      for (std::int64_t q = 0; q < kCodebooks; ++q)
        codes.as<std::int64_t>()[q * count + t] = all.codes[static_cast<std::size_t>(t)][static_cast<std::size_t>(q)];
    SpeechPrompt out{.ids = {all.text.begin(), all.text.begin() + count}, .ref_codes = codes};
    if (sequence == 0) {
      out.audio_states = audio_states;
      out.image_states = image_states;
      out.spk_emb = spk_emb;
    }
    return out;
  }
};

// The last position's logits of a sequence's first `count` columns in one pass: text, then codes.
std::vector<double> logits_in_one_pass(Device& device, OmniModel& model, const Material& material, std::size_t sequence,
                                       std::int64_t count) {
  OmniSequences fresh(device, model, 1, 64);
  OwnedTensor codes;
  fresh.show(0, material.prompt(sequence, count, codes));
  std::vector<OwnedTensor> memory;
  const OmniSequences::Logits logits = fresh.logits();
  std::vector<double> out = values_of(device.on_host(logits.text, memory));
  for (const double value : values_of(device.on_host(logits.audio, memory))) out.push_back(value);
  return out;
}

std::vector<double> logits_of_row(Device& device, OmniSequences& sequences, std::int64_t row) {
  const OmniSequences::Logits logits = sequences.logits();
  std::vector<OwnedTensor> memory;
  const auto row_of = [&](const View& all, std::int64_t index) {
    return values_of(device.on_host(slice(all, index * all.width(), {all.width()}), memory));
  };
  std::vector<double> out = row_of(logits.text, row);
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    for (const double value : row_of(logits.audio, q * sequences.rows() + row)) out.push_back(value);
  return out;
}

// A row expects next what its sequence does in one pass: text and codes, or the codes alone.
void require_as_in_one_pass(Device& device, OmniModel& model, const Material& material, OmniSequences& sequences,
                            std::int64_t row, std::size_t sequence, bool text = true) {
  CAPTURE(row, sequences.length(row));
  std::vector<double> actual = logits_of_row(device, sequences, row),
                      expected = logits_in_one_pass(device, model, material, sequence, sequences.length(row));
  for (std::vector<double>* logits : {&actual, &expected})
    if (!text) logits->erase(logits->begin(), logits->begin() + model.config.thinker.vocab_size);
  REQUIRE(difference(actual, expected, model.store.dtype() == DType::f32 ? 2e-5 : 5e-2) == "");
}

OmniSequences::Step reading(const Columns& columns, std::int64_t t) {
  const auto at = static_cast<std::size_t>(t);
  return {.reads = true, .text = columns.text[at], .codes = columns.codes[at]};
}

// A model directly from a seed, in the memory layout of inference.
std::unique_ptr<OmniModel> small_model(Device& device, bool use_moe, DType dtype = DType::f32) {
  return OmniModel::create(small_config(use_moe), dtype, 9, device);
}

SpeechRequest request_of(std::vector<std::int32_t> ids, const SpeechSettings& settings) {
  SpeechRequest out{.prompt = {.ids = std::move(ids)}, .settings = settings};
  out.settings.enter_token_id = 3;
  return out;
}

bool same(const SpeechResult& a, const SpeechResult& b) { return a.text == b.text && a.frames == b.frames; }

}  // namespace

TEST_CASE("omni sequences: step by step, side by side, as in one pass") {
  for (const std::string& name : device_names())
    for (const bool use_moe : {false, true})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        CAPTURE(name, use_moe, name_of(dtype));
        Device device = Device::named(name, 2);
        const auto model = small_model(device, use_moe, dtype);
        const Material material(use_moe);
        OmniSequences sequences(device, *model, 3, 64);
        const auto check = [&](std::int64_t row, std::size_t sequence) {
          require_as_in_one_pass(device, *model, material, sequences, row, sequence);
        };
        OwnedTensor codes;
        std::vector<OmniSequences::Step> steps(3);
        sequences.show(2, material.prompt(0, 6, codes));
        check(2, 0);
        for (std::int64_t t = 6; t < 9; ++t) {
          steps[2] = reading(material.columns[0], t);
          sequences.append(steps);
          check(2, 0);
        }
        sequences.show(0, material.prompt(1, 5, codes));  // joins later
        check(2, 0);
        check(0, 1);
        for (std::int64_t t = 9; t < 14; ++t) {
          steps[2] = reading(material.columns[0], t);
          steps[0] = reading(material.columns[1], t - 4);
          steps[0].reads = t != 10;  // waits once: its step is read later
          if (t > 10) steps[0] = reading(material.columns[1], t - 5);
          sequences.append(steps);
          check(2, 0);
          check(0, 1);
        }
        sequences.clear(2);
        sequences.show(2, material.prompt(1, 7, codes));  // a row serves again, here without a speaker
        steps[2] = reading(material.columns[1], 7);
        steps[0].reads = false;
        sequences.append(steps);
        check(2, 1);
        check(0, 1);
      }
}

TEST_CASE("omni sequences: after text read ahead the Talker alone expects the same codes") {
  for (const std::string& name : device_names())
    for (const bool use_moe : {false, true})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        CAPTURE(name, use_moe, name_of(dtype));
        Device device = Device::named(name, 2);
        const auto model = small_model(device, use_moe, dtype);
        const Material material(use_moe);
        OmniSequences sequences(device, *model, 2, 11);
        std::vector<OmniSequences::Step> steps(2);
        OwnedTensor codes;
        const auto check_codes = [&](std::int64_t row, std::size_t sequence) {
          require_as_in_one_pass(device, *model, material, sequences, row, sequence, false);
        };
        sequences.show(1, material.prompt(1, 5, codes));
        const auto read_ahead = [&](std::int64_t count) {
          std::vector<std::int64_t> text;
          for (std::int64_t t = sequences.length(1); t < sequences.length(1) + count; ++t)
            text.push_back(material.columns[1].text.at(static_cast<std::size_t>(std::min<std::int64_t>(t, 10))));
          sequences.read_ahead(1, text);
        };
        read_ahead(4);
        for (std::int64_t t = 5; t < 9; ++t) {
          REQUIRE(sequences.is_ahead(1));
          if (t == 7) sequences.show(0, material.prompt(0, 6, codes));  // reads along, and needs the whole model
          steps[0] = reading(material.columns[0], t - 1);
          steps[0].reads = t >= 7;
          steps[1] = reading(material.columns[1], t);
          sequences.append(steps);
          check_codes(1, 1);
          if (t >= 7) check_codes(0, 0);
        }
        REQUIRE_FALSE(sequences.is_ahead(1));
        read_ahead(5);  // of which two have room
        steps[0].reads = false;
        for (std::int64_t t = 9; t < 11; ++t) {
          steps[1] = reading(material.columns[1], t);
          sequences.append(steps);
          check_codes(1, 1);
        }
        REQUIRE_FALSE(sequences.is_ahead(1));
        sequences.clear(1);
        REQUIRE_FALSE(sequences.is_ahead(1));
      }
}

TEST_CASE("omni sequences: a full or a too short context is an error, a step allocates nothing") {
  Device device = Device::cpu(1);
  const auto model = small_model(device, true);
  const Material material(true);
  OmniSequences sequences(device, *model, 2, 12);
  OwnedTensor codes;
  REQUIRE_THROWS_WITH(sequences.show(0, material.prompt(0, 13, codes)), Catch::Contains("13 tokens do not fit"));
  sequences.show(1, material.prompt(0, 6, codes));
  std::vector<OmniSequences::Step> steps(2);
  std::vector<std::uint64_t> allocations;
  for (std::int64_t t = 6; t < 12; ++t) {
    steps[1] = reading(material.columns[0], t);
    sequences.append(steps);
    sequences.logits();
    allocations.push_back(sequences.allocations());
  }
  REQUIRE(allocations.front() == allocations.back());
  REQUIRE_THROWS_WITH(sequences.append(steps), Catch::Contains("context of 12 tokens is full"));
  REQUIRE(OmniSequences(device, *model, 1, 1 << 20).capacity() == model->config.thinker.max_position_embeddings);
  REQUIRE_THROWS_WITH(OmniSequences(device, *model, 0, 5), Catch::Contains("found 0 of 5"));
}

TEST_CASE("conversations side by side give what each gives alone") {
  for (const std::string& name : device_names())
    for (const bool use_moe : {false, true}) {
      CAPTURE(name, use_moe);
      Device device = Device::named(name, 2);
      const auto model = small_model(device, use_moe);
      const Material material(use_moe);
      OwnedTensor codes;
      std::vector<SpeechRequest> requests{
          request_of({7, 8, 9}, {.greedy = true, .max_new_tokens = 20}),
          request_of({1, 2, 3, 4, 30, 31, 32}, {.repetition_penalty = 1.3, .greedy = true, .max_new_tokens = 31}),
          request_of({11, 12}, {.temperature = 3, .top_p = 1, .max_new_tokens = 26, .seed = 5}),
          request_of({}, {.greedy = true, .max_new_tokens = 12}),
          request_of({20, 21, 22, 23}, {.temperature = 2, .thinking = true, .max_new_tokens = 9, .seed = 6})};
      requests[3].prompt = material.prompt(0, 9, codes);
      std::vector<SpeechResult> alone;
      for (const SpeechRequest& request : requests) {
        SpeechGenerator generator(device, *model, 1, 64);
        alone.push_back(generator.generate(std::span(&request, 1))[0]);
      }
      REQUIRE(alone[0].text.size() > 3);
      for (const std::int64_t rows : {2, 5, 7}) {
        SpeechGenerator generator(device, *model, rows, 64);
        for (int again = 0; again < 2; ++again) {
          const std::vector<SpeechResult> together = generator.generate(requests);
          for (std::size_t i = 0; i < requests.size(); ++i) {
            CAPTURE(rows, i, again);
            REQUIRE(same(together[i], alone[i]));
          }
        }
      }
    }
}

TEST_CASE("draws of text and codes depend on the seed alone") {
  Device device = Device::cpu(2);
  const auto model = small_model(device, false);
  const auto answer = [&](std::uint64_t seed, bool greedy = false) {
    SpeechGenerator generator(device, *model, 1, 64);
    const SpeechRequest request =
        request_of({7, 8, 9}, {.temperature = 1.5, .top_p = 1, .greedy = greedy, .max_new_tokens = 40, .seed = seed});
    return generator.generate(std::span(&request, 1))[0];
  };
  REQUIRE(same(answer(1), answer(1)));
  REQUIRE_FALSE(same(answer(1), answer(2)));
  REQUIRE(same(answer(1, true), answer(2, true)));
}

TEST_CASE("an answer can be stopped from outside or by its listener, and the others go on") {
  Device device = Device::cpu(2);
  const auto model = small_model(device, false);
  SpeechGenerator generator(device, *model, 3, 64);
  std::vector<SpeechRequest> requests(3, request_of({7, 8, 9}, {.greedy = true, .max_new_tokens = 12}));
  generator.set_logits_hook(
      [&](std::int64_t row, std::int64_t, const SpeechRequest&, const OmniSequences::Logits& all) {
        all.text.as<float>()[row * all.text.width() + 2] = -1000;  // no end of text
      });
  std::atomic<bool> cancelled = false;
  std::vector<std::size_t> emissions(3);
  for (std::size_t i = 0; i < 3; ++i)
    requests[i].on_emission = [&, i](const SpeechEmission& emission) {
      REQUIRE(emission.text.has_value());
      ++emissions[i];
      if (i == 2 && emissions[i] == 4) cancelled = true;  // seen before the next step
      return i != 1 || emissions[i] < 3;
    };
  requests[0].cancelled = &cancelled;
  const std::vector<SpeechResult> results = generator.generate(requests);
  REQUIRE(emissions == std::vector<std::size_t>{4, 3, 12});
  REQUIRE((results[0].cancelled && results[1].cancelled && !results[2].cancelled));
  REQUIRE(results[0].text.size() == 4);
  REQUIRE(generator.is_idle());
}

TEST_CASE("answers end where the context ends; a bad prompt or setting is an error that leaves no trace") {
  Device device = Device::cpu(2);
  const auto model = small_model(device, false);
  SpeechGenerator generator(device, *model, 2, 10);
  generator.set_logits_hook(
      [&](std::int64_t row, std::int64_t, const SpeechRequest&, const OmniSequences::Logits& all) {
        all.text.as<float>()[row * all.text.width() + 2] = -1000;
      });
  const std::vector<SpeechRequest> good{request_of({7, 8, 9}, {.greedy = true})};
  const std::vector<SpeechResult> first = generator.generate(good);
  REQUIRE(first[0].text.size() == 8);  // the last of them was drawn from the tenth position
  const std::vector<SpeechRequest> mixed{good[0], request_of({41}, {})},
      cold{good[0], request_of({1}, {.temperature = -1})};
  REQUIRE_THROWS_WITH(generator.generate(mixed), Catch::Contains("token id 41"));
  REQUIRE(generator.is_idle());
  REQUIRE_THROWS_WITH(generator.generate(cold), Catch::Contains("temperature must be positive"));
  REQUIRE(generator.is_idle());
  SpeechGenerator damaged(device, *model, 2, 10);
  damaged.set_logits_hook([](std::int64_t, std::int64_t step, const SpeechRequest&, const OmniSequences::Logits& all) {
    if (step == 2) all.audio.as<float>()[0] = NAN;
  });
  REQUIRE_THROWS_WITH(damaged.generate(good), Catch::Contains("not a number"));
  REQUIRE(damaged.is_idle());
  REQUIRE(same(generator.generate(good)[0], first[0]));
  for (int i = 0; i < 2; ++i) generator.begin(good[0]);
  REQUIRE_THROWS_WITH(generator.begin(good[0]), "generation: all rows are taken");
}

}  // namespace omni
