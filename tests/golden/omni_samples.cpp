// Samples of the omni stages against what the original's dataset code gave for the same rows and random decisions.
// Folder: $OMNI_GOLDENS/omni-samples if the variable is set, else tests/golden/data/omni-samples; the tokenizer is in
// the folder tokenizer/ beside it. Every samples-NAME.json with its .safetensors is a case; its rows lie in
// rows-L.jsonl; scheduled sampling is compared in the cases that hold its draws.

#include "trainers/omni_samples.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "engine/files.h"
#include "engine/safetensors.h"
#include "models/json_text.h"
#include "tests/support/goldens.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// There a question is the number of its feature rows, and a picture 0 or 1.
OmniRow row_of(const Json& json) {
  OmniRow row;
  row.messages = Json::parse(json.at("conversations").get<std::string>());
  for (const Json& codes : json.at("answer_audios")) row.answer_codes.push_back(codes);
  row.reference_codes = json.at("ref_audios").get<std::vector<std::int64_t>>();
  for (const Json& rows : json.at("question_audios")) row.questions.push_back({rows, {}});
  row.image.rows = json.at("image_bytes");
  row.speaker = json.at("spk_emb").get<std::vector<float>>();
  return row;
}

OmniDecisions decisions_of(const Json& json) {
  return {.turn = json.at("turn_start"),
          .system = json.at("system"),
          .remove_think = json.at("remove_think"),
          .audio_form = static_cast<AudioForm>(json.at("audio_form").get<int>()),
          .image_form = static_cast<ImageForm>(json.at("image_form").get<int>()),
          .use_reference = json.at("use_ref")};
}

template <class T, class Stored = T>
std::vector<T> entry(const SafetensorsFile& file, const std::string& name, std::int64_t index) {
  const ConstView all = file.at(name);
  const std::int64_t count = all.count() / all.shape[0];
  const Stored* begin = all.as<Stored>() + index * count;
  return {begin, begin + count};
}

std::vector<std::int64_t> numbers(const SafetensorsFile& file, const std::string& name, std::int64_t index) {
  return file.at(name).dtype == DType::i32 ? entry<std::int64_t, std::int32_t>(file, name, index)
                                           : entry<std::int64_t>(file, name, index);
}

TEST_CASE("omni samples are the original's") {
  const Tokenizer tokenizer = Tokenizer::load(golden_folder("tokenizer"));
  std::size_t cases = 0;
  for (const auto& file : fs::directory_iterator(golden_folder("omni-samples"))) {
    const std::string name = file.path().stem().string();
    if (!name.starts_with("samples-") || file.path().extension() != ".json") continue;
    const std::string length = name.substr(8, name.find('-', 8) - 8);
    const bool text_only = name.ends_with("-text-only");
    const OmniAssembler assembler(tokenizer, OmniConfig{}, std::stoll(length), {!text_only, !text_only});
    const SafetensorsFile expected(golden_folder("omni-samples") / (name + ".safetensors"));
    const auto decisions = Json::parse(read_text_file(file.path()));
    std::istringstream lines(read_text_file(golden_folder("omni-samples") / ("rows-" + length + ".jsonl")));
    std::int64_t i = 0;
    for (std::string line; std::getline(lines, line); ++i) {
      CAPTURE(name, i);
      OmniSample sample =
          assembler.assemble(row_of(Json::parse(line)), decisions_of(decisions.at(static_cast<std::size_t>(i))));
      if (expected.contains("sched_audio_u"))
        assembler.apply(sample,
                        {.audio_draws = entry<float>(expected, "sched_audio_u", i),
                         .text_draws = entry<float>(expected, "sched_text_u", i),
                         .audio_codes = numbers(expected, "sched_audio_codes", i),
                         .text_ids = numbers(expected, "sched_text_ids", i)},
                        0.05);
      REQUIRE(sample.text_labels == numbers(expected, "text_labels", i));
      REQUIRE(sample.audio_labels == numbers(expected, "audio_labels", i));
      REQUIRE(sample.input_ids == numbers(expected, "input_ids", i));
    }
    REQUIRE(i == expected.at("input_ids").shape[0]);
    ++cases;
  }
  REQUIRE(cases > 0);
}

}  // namespace
}  // namespace omni
