// Streaming generation against the original: every case "N.*" in generate.safetensors of the folders omni-* that have
// one, token for token and code for code. Every draw is the most probable one.

#include <filesystem>

#include "engine/safetensors.h"
#include "models/speech_generation.h"
#include "tests/golden/compare.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

// A case of the file. script[k] is forced as the text of step k; with stop_frame > 0 codebook q is made to stop at the
// step at which it would give its part of that frame; with only_sounds no other reserved code is drawn.
struct GoldenCase {
  SpeechRequest request;
  std::vector<std::int64_t> script;
  std::int64_t stop_frame = 0;
  bool only_sounds = false;
  std::vector<std::int64_t> text, frames;  // per emission: id or -1, eight codes or -1
};

std::vector<std::int64_t> integers(const ConstView& view) {
  return {view.as<std::int64_t>(), view.as<std::int64_t>() + view.count()};
}

// The case with this number; views point into the file.
std::optional<GoldenCase> read_case(const SafetensorsFile& file, int number) {
  const std::string prefix = std::to_string(number) + ".";
  const auto tensor = [&](const char* name) {
    return file.contains(prefix + name) ? file.at(prefix + name) : ConstView();
  };
  const auto without_batch = [](ConstView view) {
    if (view) view.shape = view.shape.rank() == 2 ? Shape{view.shape[1]} : Shape{view.shape[1], view.shape[2]};
    return view;
  };
  if (!tensor("prompt")) return {};
  GoldenCase out;
  for (const std::int64_t id : integers(tensor("prompt")))
    out.request.prompt.ids.push_back(static_cast<std::int32_t>(id));
  out.request.prompt.ref_codes = without_batch(tensor("ref_codes"));
  out.request.prompt.spk_emb = without_batch(tensor("spk_emb"));
  out.request.prompt.audio_states = without_batch(tensor("audio_states"));
  out.request.prompt.image_states = without_batch(tensor("image_states"));
  const std::vector<double> settings = values_of(tensor("settings"));
  out.request.settings.greedy = true;
  out.request.settings.max_new_tokens = static_cast<std::int64_t>(settings.at(0));
  out.request.settings.thinking = settings.at(1) != 0;
  out.request.settings.repetition_penalty = settings.at(2);
  out.stop_frame = static_cast<std::int64_t>(settings.at(3));
  if (settings.size() > 4) out.request.settings.enter_token_id = static_cast<std::int64_t>(settings[4]);
  out.only_sounds = settings.size() > 5 && settings[5] != 0;
  out.script = integers(tensor("script"));
  out.text = integers(tensor("text"));
  out.frames = integers(tensor("frames"));
  return out;
}

std::vector<GoldenCase> read_cases(const SafetensorsFile& file) {
  std::vector<GoldenCase> out;
  while (auto next = read_case(file, static_cast<int>(out.size()))) out.push_back(std::move(*next));
  return out;
}

// Changes a row of logits in the device's memory.
template <class Change>
void edit(Device& device, const View& logits, std::int64_t row, const Change& change) {
  std::vector<float> values(static_cast<std::size_t>(logits.width()));
  const View host = view_of(values.data(), {logits.width()}), place = slice(logits, row * logits.width(), host.shape);
  device.copy(host, place);
  change(values);
  device.copy(place, host);
}

void force(Device& device, const OmniConfig& config, const GoldenCase& golden, std::int64_t row, std::int64_t step,
           const OmniSequences::Logits& logits) {
  if (step < static_cast<std::int64_t>(golden.script.size()))
    edit(device, logits.text, row, [&](std::vector<float>& values) {
      values.at(static_cast<std::size_t>(golden.script[static_cast<std::size_t>(step)])) += 1000;
    });
  const std::int64_t rows = logits.text.rows();
  for (std::int64_t q = 0; q < kCodebooks; ++q) {
    const bool stops = golden.stop_frame > 0 && step == golden.stop_frame + 1 + q;  // the step that draws its code
    if (stops || golden.only_sounds)
      edit(device, logits.audio, q * rows + row, [&](std::vector<float>& values) {
        if (stops)
          values.at(static_cast<std::size_t>(config.audio_stop_token)) += 1000;
        else
          for (std::int64_t code = config.first_reserved_code(); code < config.audio_vocab_size; ++code)
            values[static_cast<std::size_t>(code)] -= 1000;
      });
  }
}

// The cases side by side on `rows` rows.
void check_cases(Device& device, OmniModel& model, std::vector<GoldenCase>& cases, std::int64_t rows) {
  SpeechGenerator generator(device, model, rows, 128);
  std::vector<std::vector<std::int64_t>> text(cases.size()), frames(cases.size());
  std::vector<SpeechRequest> requests;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    cases[i].request.on_emission = [&, i](const SpeechEmission& emission) {
      text[i].push_back(emission.text ? *emission.text : -1);
      for (std::size_t q = 0; q < kCodebooks; ++q) frames[i].push_back(emission.frame ? (*emission.frame)[q] : -1);
      return true;
    };
    requests.push_back(cases[i].request);
  }
  generator.set_logits_hook(
      [&](std::int64_t row, std::int64_t step, const SpeechRequest& request, const OmniSequences::Logits& logits) {
        const auto golden = std::find_if(cases.begin(), cases.end(), [&](const GoldenCase& each) {
          return each.request.prompt.ids == request.prompt.ids;
        });
        REQUIRE(golden != cases.end());
        force(device, model.config, *golden, row, step, logits);
      });
  const std::vector<SpeechResult> results = generator.generate(requests);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i, rows);
    REQUIRE(text[i] == cases[i].text);
    REQUIRE(frames[i] == cases[i].frames);
    REQUIRE(static_cast<std::int64_t>(results[i].text.size()) ==
            std::count_if(text[i].begin(), text[i].end(), [](std::int64_t id) { return id >= 0; }));
  }
}

}  // namespace

TEST_CASE("streamed text and codes equal the original's, one conversation at a time and side by side") {
  std::size_t compared = 0;
  for (const auto& [folder, device_name] : golden_cases("omni-")) {
    if (!std::filesystem::exists(folder / "generate.safetensors")) continue;
    CAPTURE(folder, device_name);
    Device device = Device::named(device_name);
    const auto model = OmniModel::load(folder, DType::f32, Purpose::inference, device);
    const SafetensorsFile file(folder / "generate.safetensors");
    std::vector<GoldenCase> cases = read_cases(file);
    REQUIRE(cases.size() > 1);
    check_cases(device, *model, cases, 1);
    check_cases(device, *model, cases, static_cast<std::int64_t>(cases.size()) - 1);  // one waits for a row
    compared += cases.size();
  }
  REQUIRE(compared > 0);
}

}  // namespace omni
