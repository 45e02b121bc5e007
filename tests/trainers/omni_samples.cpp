// Samples of the omni stages. tests/golden/omni_samples.cpp compares whole samples with a reference; here stands what
// a reader can check by eye.

#include "trainers/omni_samples.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/trainers/small_run.h"
#include "trainers/sample_table.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;
using Json = nlohmann::ordered_json;

// Bytes and special tokens as in the original's vocabulary, and the few merges that the example needs; words made of
// several merges get the original's id at the end.
const Tokenizer& tokenizer() {
  static const Tokenizer loaded = [] {
    const TemporaryFolder folder;
    write_byte_tokenizer(folder.path());
    const Json old = Json::parse(read_text_file(folder / "tokenizer.json"));
    std::map<std::string, int> bytes;  // stand-ins in the order of their code points
    for (const auto& [text, id] : old["model"]["vocab"].items())
      if (id.get<int>() > 2) bytes[text] = 0;
    Json file = old, vocab = Json::object(), added = Json::array(), merges = Json::array();
    for (const auto& [text, unused] : bytes) vocab[text] = 36 + vocab.size();
    const std::vector<std::pair<int, std::string>> specials = {
        {0, "<|endoftext|>"},  {1, "<|im_start|>"}, {2, "<|im_end|>"}, {12, "<|image_pad|>"},
        {16, "<|audio_pad|>"}, {25, "<think>"},     {26, "</think>"}};
    for (const auto& [id, text] : specials) {
      Json token = old["added_tokens"][0];
      token["id"] = id;
      token["content"] = text;
      added.push_back(token);
      vocab[text] = id;
    }
    const std::vector<std::tuple<std::string, std::string, int>> pairs = {
        {"u", "s", 832}, {"e", "r", 311},  {"a", "s", 300}, {"as", "s", 1388}, {"i", "s", 301},   {"is", "t", 570},
        {"a", "n", 302}, {"an", "t", 811}, {"H", "e", 303}, {"l", "l", 304},   {"He", "ll", 305}, {"Hell", "o", 1602}};
    for (const auto& [left, right, id] : pairs) {
      vocab[left + right] = id;
      merges.push_back({left, right});
    }
    file["added_tokens"] = added;
    file["model"]["vocab"] = vocab;
    file["model"]["merges"] = merges;
    write_text_file(folder / "tokenizer.json", file.dump());
    return Tokenizer::load(folder.path());
  }();
  return loaded;
}

std::vector<std::int64_t> codes(std::int64_t frames, std::int64_t first) {
  std::vector<std::int64_t> out;
  for (std::int64_t f = 0; f < frames; ++f)
    for (std::int64_t q = 0; q < 8; ++q) out.push_back(first + 10 * f + q);
  return out;
}

Json message(const std::string& role, const std::string& content) { return {{"role", role}, {"content", content}}; }

OmniRow example() {
  OmniRow row;
  row.messages = Json::array({message("user", "Hi"), message("assistant", "Hello!")});
  row.answer_codes = {codes(3, 100)};
  row.reference_codes = codes(2, 900);
  row.speaker.assign(192, 0.5f);
  return row;
}

OmniDecisions decisions(bool remove_think, bool use_reference) {
  OmniDecisions out;
  out.remove_think = remove_think;
  out.use_reference = use_reference;
  return out;
}

// A turn of `length` single-byte tokens.
std::string bytes(std::size_t length) { return std::string(length, 'x'); }

TEST_CASE("the nine streams of a small conversation") {
  const OmniAssembler assembler(tokenizer(), {}, 32);
  const OmniSample sample = assembler.assemble(example(), decisions(true, true));
  CHECK(sample.time == 31);
  CHECK(sample.text_length == 17);
  CHECK_FALSE(sample.truncated);
  CHECK_FALSE(sample.unanswered);
  const std::string expected = R"(
  pos   text  label |    q0    q1    q2    q3    q4    q5    q6    q7 |    q0    q1    q2    q3    q4    q5    q6    q7 | token
    0      1      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | <|im_start|>
    1    832      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | us
    2    311      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | er
    3    234      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | \n
    4     75      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | H
    5    108      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | i
    6      2      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | <|im_end|>
    7    234      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | \n
    8      1      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | <|im_start|>
    9   1388      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | ass
   10    570      . |     S     S     S     S     S     S     S     S |     .     .     .     .     .     .     .     . | ist
   11    811      . |   900   901   902   903   904   905   906   907 |     .     .     .     .     .     .     .     . | ant
   12    234   1602 |   910   911   912   913   914   915   916   917 |     .     .     .     .     .     .     .     . | \n
   13   1602     36 |     P     P     P     P     P     P     P     P |   100     .     .     .     .     .     .     . | Hello
   14     36      2 |   100     P     P     P     P     P     P     P |   110   101     .     .     .     .     .     . | !
   15      2    234 |   110   101     P     P     P     P     P     P |   120   111   102     .     .     .     .     . | <|im_end|>
   16    234      . |   120   111   102     P     P     P     P     P |     X   121   112   103     .     .     .     . | \n
   17      0      . |     X   121   112   103     P     P     P     P |     .     X   122   113   104     .     .     . | <|endoftext|>
   18      0      . |     P     X   122   113   104     P     P     P |     .     .     X   123   114   105     .     . | <|endoftext|>
   19      0      . |     P     P     X   123   114   105     P     P |     .     .     .     X   124   115   106     . | <|endoftext|>
   20      0      . |     P     P     P     X   124   115   106     P |     .     .     .     .     X   125   116   107 | <|endoftext|>
   21      0      . |     P     P     P     P     X   125   116   107 |     .     .     .     .     .     X   126   117 | <|endoftext|>
   22      0      . |     P     P     P     P     P     X   126   117 |     .     .     .     .     .     .     X   127 | <|endoftext|>
   23      0      . |     P     P     P     P     P     P     X   127 |     .     .     .     .     .     .     .     X | <|endoftext|>
   24      0      . |     P     P     P     P     P     P     P     X |     .     .     .     .     .     .     .     . | <|endoftext|>
   25      0      . |     P     P     P     P     P     P     P     P |     .     .     .     .     .     .     .     . | <|endoftext|>
  ...  and 5 more positions like it, up to 30
)";
  CHECK("\n" + sample_table(sample, sample, {}, tokenizer()) == expected);
}

TEST_CASE("a think block moves the answer, a missing reference the speaker") {
  const OmniAssembler assembler(tokenizer(), {}, 40);
  const auto code = [](const OmniSample& sample, std::int64_t q, std::int64_t t) {
    return sample.input_ids.at(static_cast<std::size_t>(q * sample.time + t));
  };
  const OmniSample kept = assembler.assemble(example(), decisions(false, true));
  CHECK(kept.text_labels.at(12) == 25);
  CHECK(code(kept, 7, 16) == 2051);
  CHECK(code(kept, 7, 17) == 907);
  CHECK(code(kept, 7, 18) == 917);
  CHECK(code(kept, 0, 19) == 2049);
  CHECK(code(kept, 0, 20) == 100);
  const OmniSample dropped = assembler.assemble(example(), decisions(true, false));
  CHECK(code(dropped, 3, 10) == 2049);
  CHECK(code(dropped, 3, 11) == 2049);
  CHECK(code(dropped, 3, 12) == 2051);
  OmniRow image = example();  // nothing is spoken: neither speaker nor reference
  image.answer_codes.clear();
  const OmniSample silent = assembler.assemble(image, decisions(true, true));
  for (std::int64_t q = 0; q < 8; ++q)
    for (std::int64_t t = 0; t < silent.time; ++t) REQUIRE(code(silent, q, t) == 2049);
}

TEST_CASE("the decisions of omni samples have the original's frequencies") {
  constexpr int kDraws = 20000;
  OmniRow row = example();
  for (const char* text : {"b", "c"}) {
    row.messages.push_back(message("user", text));
    row.messages.push_back(message("assistant", text));
  }
  std::array<int, 3> turns{};
  std::array<int, 4> audio{}, image{};
  int references = 0, systems = 0, removed = 0;
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    Philox random(7, RandomStream::augmentation, i), other(8, RandomStream::augmentation, i);
    const OmniDecisions drawn = draw_omni_decisions(random, row);
    ++turns.at(static_cast<std::size_t>(drawn.turn));
    ++audio.at(static_cast<std::size_t>(drawn.audio_form));
    ++image.at(static_cast<std::size_t>(drawn.image_form));
    references += drawn.use_reference;
    systems += drawn.system >= 0;
    removed += drawn.remove_think;
    REQUIRE(draw_omni_decisions(other, example()).turn == 0);
  }
  // Five standard deviations of a binomial count.
  const auto is_part = [](int found, double part) {
    return std::abs(found - kDraws * part) < 5 * std::sqrt(kDraws * part * (1 - part));
  };
  for (const int found : turns) CHECK(is_part(found, 1. / 3));
  for (std::size_t form = 0; form < 4; ++form) {
    CHECK(is_part(audio[form], form == 0 ? 0.4 : 0.2));
    CHECK(is_part(image[form], form == 3 ? 0.4 : 0.2));
  }
  CHECK(is_part(references, 0.5));
  CHECK(is_part(systems, 0.2));
  CHECK(is_part(removed, 0.8));
}

TEST_CASE("the turn drawn is answered where it fits, else the nearest before it, at last the first") {
  OmniRow row;
  row.messages = Json::array();
  for (const std::size_t length : {10, 10, 30})
    for (const char* role : {"user", "assistant"}) row.messages.push_back(message(role, bytes(length)));
  row.answer_codes = {codes(1, 0), codes(2, 0), codes(3, 0)};
  OmniDecisions last = decisions(true, false);
  last.turn = 2;
  const auto turn_at = [&](std::int64_t length) {
    return OmniAssembler(tokenizer(), {}, length).assemble(row, last).turn;
  };
  const auto tokens = [&](std::int64_t turn) {  // up to its answer
    OmniDecisions drawn = decisions(true, false);
    drawn.turn = turn;
    return OmniAssembler(tokenizer(), {}, 500).assemble(row, drawn).text_length;
  };
  const std::int64_t two = tokens(1), three = tokens(2);
  CHECK(turn_at(three + 101) == 2);
  CHECK(turn_at(three + 100) == 1);
  CHECK(turn_at(two + 101) == 1);
  CHECK(turn_at(two + 100) == 0);
  CHECK(turn_at(40) == 0);  // not even that one fits
  const OmniSample sample = OmniAssembler(tokenizer(), {}, two + 101).assemble(row, last);
  CHECK(std::count_if(sample.audio_labels.begin(), sample.audio_labels.end(), [](auto c) { return c != -100; }) == 24);
}

TEST_CASE("samples tell when something was cut off and when nothing is left to learn") {
  const OmniRow row = example();  // 17 tokens; the last stop code is the label of position 23
  const auto at = [&](std::int64_t length) {
    return OmniAssembler(tokenizer(), {}, length).assemble(row, decisions(true, true));
  };
  CHECK_FALSE(at(25).truncated);
  CHECK(at(24).truncated);  // a stop code
  CHECK(at(16).truncated);  // text
  CHECK_FALSE(at(13).unanswered);
  CHECK(at(12).unanswered);
  const OmniSample none = at(12);
  CHECK(none.text_labels == std::vector<std::int64_t>(11, -100));
  CHECK(none.audio_labels == std::vector<std::int64_t>(88, -100));
  CHECK_THAT(sample_summary(row, decisions(true, true), none, {}),
             Contains("unanswered") && Contains("0 of 32 codes") && Contains("12 of 12 positions"));
}

TEST_CASE("the summary of a sample names what was drawn and what is there") {
  OmniRow row = example();
  row.messages = Json::array({message("user", "a\n<image>"), message("assistant", "b\\"), message("user", "c\x01"),
                              message("assistant", "d")});
  row.answer_codes = {codes(1, 0), codes(25, 0)};
  row.questions = {{}, {4, {}}};
  OmniDecisions drawn = decisions(false, false);
  drawn.turn = 1;
  drawn.system = 5;
  drawn.audio_form = AudioForm::audio_first;
  drawn.image_form = ImageForm::line_after;
  const OmniAssembler assembler(tokenizer(), {}, 300);
  CHECK_THAT(sample_summary(row, drawn, assembler.assemble(row, drawn), {}),
             Contains("user: a\\n<image>\n") && Contains("assistant: b\\\\  [1 frame of codes]\n") &&
                 Contains("user: c\\x01  [4 states of a recording]\n") && Contains("answer to learn     1 of 0..1\n") &&
                 Contains("You are a helpful AI assistant.") && Contains("kept") && Contains("recording, then text") &&
                 Contains("on the line after the text") && Contains("left out, 2 frames") &&
                 Contains("25 frames, 2.00 s; 208 of 208 codes") && Contains("truncated           no"));
  const OmniSample cut = OmniAssembler(tokenizer(), {}, 120).assemble(row, drawn);
  CHECK_THAT(sample_summary(row, drawn, cut, {}), Contains("0 of 0..1, as 1 was drawn and does not fit") &&
                                                      Contains("d  [25 frames of codes]  [not read]") &&
                                                      Contains("text, there is no recording"));
}

TEST_CASE("the table marks what scheduled sampling replaced and shows bytes that are no text") {
  const OmniAssembler assembler(tokenizer(), {}, 32);
  OmniRow row = example();
  row.messages[0]["content"] = "\xC3\xA9";  // two tokens, each half a character
  const OmniSample plain = assembler.assemble(row, decisions(true, true));
  OmniSample sampled = plain;
  ScheduledSampling draws{.audio_draws = std::vector<float>(31, 1.f),
                          .text_draws = std::vector<float>(31, 1.f),
                          .audio_codes = std::vector<std::int64_t>(8 * 31, 2111),
                          .text_ids = std::vector<std::int64_t>(31, 6399)};
  draws.audio_draws[14] = draws.text_draws[13] = 0;
  assembler.apply(sampled, draws, 0.05);
  const std::string table = sample_table(sampled, plain, {}, tokenizer());
  CHECK_THAT(table, Contains("   13  *6399     36 |") && Contains("| (not in the tokenizer)\n") &&
                        Contains("   14     36      2 | *2111 *2111") && Contains("| \\xC3\n") &&
                        Contains("| \\xA9\n"));
  CHECK(std::count(table.begin(), table.end(), '*') == 9);
}

}  // namespace
}  // namespace omni
