// Samples of the text stages against what the original's dataset code gave for the same lines and random decisions.
// Folder: $OMNI_GOLDENS/text-samples if the variable is set, else tests/golden/data/text-samples; the tokenizer is in
// the folder tokenizer/ beside it.

#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "engine/files.h"
#include "engine/safetensors.h"
#include "models/json_text.h"
#include "tests/support/goldens.h"
#include "trainers/samples.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> lines_of(const fs::path& path) {
  std::istringstream in(read_text_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::int64_t> row_of(const ConstView& matrix, std::size_t row) {
  const std::int64_t* begin = matrix.as<std::int64_t>() + static_cast<std::int64_t>(row) * matrix.width();
  return {begin, begin + matrix.width()};
}

// make(assembler, line, number) gives the sample of a line.
template <class Make>
void compare(const std::string& stage, const Make& make) {
  const Tokenizer tokenizer = Tokenizer::load(golden_folder("tokenizer"));
  const fs::path folder = golden_folder("text-samples");
  const SafetensorsFile expected(folder / (stage + ".safetensors"));
  const SampleAssembler assembler(tokenizer, std::stoll(expected.metadata().at("max_seq_len")));
  const ConstView ids = expected.at("input_ids"), labels = expected.at("labels");
  const std::vector<std::string> lines = lines_of(folder / (stage + ".jsonl"));
  REQUIRE(ids.shape[0] == static_cast<std::int64_t>(lines.size()));
  REQUIRE(!lines.empty());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CAPTURE(i, lines[i]);
    const Sample sample = make(assembler, lines[i], i);
    REQUIRE(sample.ids == row_of(ids, i));
    REQUIRE(sample.labels == row_of(labels, i));
  }
}

TEST_CASE("pretraining samples are the original's") {
  compare("pretrain", [](const SampleAssembler& assembler, const std::string& line, std::size_t) {
    return assembler.pretrain(parse_pretrain(line));
  });
}

TEST_CASE("sft samples are the original's") {
  const fs::path path = golden_folder("text-samples") / "sft_decisions.json";
  const auto decisions = parse_json<nlohmann::json>(read_text_file(path), path.string());
  compare("sft", [&](const SampleAssembler& assembler, const std::string& line, std::size_t i) {
    const auto& drawn = decisions.at(i);
    return assembler.sft(parse_conversation(line), {drawn.at("system"), drawn.at("remove_think")});
  });
}

}  // namespace
}  // namespace omni
