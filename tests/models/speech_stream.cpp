// The course of a spoken answer, driven by scripted draws.

#include "models/speech_stream.h"

#include <catch2/catch.hpp>

#include "models/speech_prompt.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

constexpr std::int64_t kPad = 2049, kStop = 2050, kEos = 2;

// What codebook q draws as its code number k: four frames of 100 + 10 f + q, the stop code, then 7.
std::int64_t scripted_code(std::int64_t k, std::int64_t q) { return k < 4 ? 100 + 10 * k + q : k == 4 ? kStop : 7; }

SpeechFrame scripted_codes(const SpeechStream& stream, std::int64_t begin) {
  SpeechFrame out{};
  for (std::int64_t q = 0; q < kCodebooks; ++q)
    out[static_cast<std::size_t>(q)] = q < stream.drawing() ? scripted_code(stream.step() - begin - q, q) : -77;
  return out;
}

// Feeds the text to the stream, then 9; returns all emissions.
std::vector<SpeechEmission> play(SpeechStream& stream, const std::vector<std::int64_t>& text, std::int64_t begin) {
  std::vector<SpeechEmission> out;
  while (!stream.finished()) {
    const auto step = static_cast<std::size_t>(stream.step());
    const auto emission = stream.advance(step < text.size() ? text[step] : 9, scripted_codes(stream, begin));
    if (emission) out.push_back(*emission);
  }
  return out;
}

std::vector<std::int64_t> frame(std::int64_t f) {
  std::vector<std::int64_t> out;
  for (std::int64_t q = 0; q < kCodebooks; ++q) out.push_back(100 + 10 * f + q);
  return out;
}

std::vector<std::int64_t> list(const SpeechFrame& codes) { return {codes.begin(), codes.end()}; }

}  // namespace

TEST_CASE("a spoken answer: what is fed and emitted step by step") {
  SpeechStream stream(OmniConfig(), {});
  // Per step: the text and the codes that the step before has left to feed, after the prompt.
  const std::vector<std::int64_t> fed_text{500, 501, kEos, 201, 0, 0, 0, 0, 0, 0, 0, 0};
  const std::vector<std::vector<std::int64_t>> fed_codes{
      {kPad, kPad, kPad, kPad, kPad, kPad, kPad, kPad},
      {100, kPad, kPad, kPad, kPad, kPad, kPad, kPad},
      {110, 101, kPad, kPad, kPad, kPad, kPad, kPad},
      {120, 111, 102, kPad, kPad, kPad, kPad, kPad},
      {130, 121, 112, 103, kPad, kPad, kPad, kPad},
      {kStop, 131, 122, 113, 104, kPad, kPad, kPad},
      {7, kStop, 132, 123, 114, 105, kPad, kPad},
      {7, 7, kStop, 133, 124, 115, 106, kPad},
      {7, 7, 7, kStop, 134, 125, 116, 107},
      {7, 7, 7, 7, kStop, 135, 126, 117},
      {7, 7, 7, 7, 7, kStop, 136, 127},
      {7, 7, 7, 7, 7, 7, kStop, 137},
  };
  const std::vector<std::int64_t> text{500, 501, kEos};
  for (std::size_t step = 0; step < fed_text.size(); ++step) {
    CAPTURE(step);
    REQUIRE_FALSE(stream.finished());
    REQUIRE(stream.drawing() == std::min<std::int64_t>(static_cast<std::int64_t>(step), kCodebooks));
    const auto emission = stream.advance(step < text.size() ? text[step] : 9, scripted_codes(stream, 1));
    REQUIRE(emission.has_value());
    REQUIRE(stream.text() == fed_text[step]);
    REQUIRE(list(stream.codes()) == fed_codes[step]);
    REQUIRE(emission->text.has_value() == (step < text.size()));
    if (emission->text) REQUIRE(*emission->text == text[step]);
    REQUIRE(emission->frame.has_value() == (step >= 8));
    if (emission->frame) REQUIRE(list(*emission->frame) == frame(static_cast<std::int64_t>(step) - 8));
  }
  REQUIRE_FALSE(stream.advance(9, scripted_codes(stream, 1)).has_value());
  REQUIRE(stream.finished());
  REQUIRE(stream.text_ids() == std::vector<std::int32_t>{500, 501, 2});
  REQUIRE(stream.frames().size() == 4);
}

TEST_CASE("a spoken answer: padding after a stop code, where it is asked for") {
  SpeechStream stream(OmniConfig(), {.enter_token_id = 234, .pad_after_stop = true});
  const std::vector<std::int64_t> text{500, 501, kEos};
  std::vector<std::vector<std::int64_t>> fed;
  std::vector<std::int64_t> fed_text;
  while (!stream.finished()) {
    const auto step = static_cast<std::size_t>(stream.step());
    if (!stream.advance(step < text.size() ? text[step] : 9, scripted_codes(stream, 1))) break;
    fed.push_back(list(stream.codes()));
    fed_text.push_back(stream.text());
  }
  REQUIRE(fed_text[3] == 234);
  REQUIRE(fed[5] == std::vector<std::int64_t>{kStop, 131, 122, 113, 104, kPad, kPad, kPad});
  REQUIRE(fed[6] == std::vector<std::int64_t>{kPad, kStop, 132, 123, 114, 105, kPad, kPad});
  REQUIRE(fed[11] == std::vector<std::int64_t>{kPad, kPad, kPad, kPad, kPad, kPad, kStop, 137});
  REQUIRE(stream.frames().size() == 4);
}

TEST_CASE("a spoken answer: recent codes, padding included") {
  SpeechStream stream(OmniConfig(), {});
  using Recent = std::array<std::int64_t, SpeechStream::kRecent>;
  REQUIRE(stream.recent(0) == Recent{-1, -1, -1});
  stream.advance(500, {});
  REQUIRE(stream.recent(0) == Recent{kPad, -1, -1});
  for (int step = 1; step < 3; ++step) stream.advance(500, scripted_codes(stream, 1));
  REQUIRE(stream.recent(0) == Recent{kPad, 100, 110});
  REQUIRE(stream.recent(1) == Recent{kPad, kPad, 101});
  REQUIRE(stream.recent(2) == Recent{kPad, kPad, kPad});
}

TEST_CASE("a spoken answer: any reserved code is a stop, of the frames of all codebooks") {
  SpeechStream stream(OmniConfig(), {.max_new_tokens = 16});
  std::vector<bool> has_frame;
  while (!stream.finished()) {
    SpeechFrame codes{};
    if (stream.step() == 6) codes[3] = 2048;  // its code of frame 2
    has_frame.push_back(stream.advance(500, codes)->frame.has_value());
  }
  REQUIRE(has_frame.size() == 16);  // the text goes on alone, until there are as many steps as asked for
  for (std::size_t step = 0; step < 16; ++step) REQUIRE(has_frame[step] == (step == 8 || step == 9));
}

TEST_CASE("a spoken answer with thinking begins after the end of the think block") {
  const std::vector<std::int64_t> text{300, 26, 234, 234, 500, kEos};
  SpeechStream stream(OmniConfig(), {.thinking = true});
  const std::vector<SpeechEmission> emissions = play(stream, text, 5);
  // The reply's first token is drawn in step 4 and fed in step 5, where codebook 0 begins.
  std::vector<std::size_t> steps;
  for (std::size_t step = 0; step < emissions.size(); ++step)
    if (emissions[step].frame) steps.push_back(step);
  REQUIRE(steps == std::vector<std::size_t>{12, 13, 14, 15});
  REQUIRE(list(*emissions[12].frame) == frame(0));
  REQUIRE(stream.text_ids().size() == text.size());

  SpeechStream silent(OmniConfig(), {.thinking = true});
  REQUIRE(play(silent, {26, 234, kEos}, 1).size() == 3);  // nothing will be said: no need to wait
  REQUIRE(silent.frames().empty());
}

TEST_CASE("a spoken answer: what is fed after the end of the text can be chosen, within the vocabulary") {
  SpeechStream stream(OmniConfig(), {.enter_token_id = 234, .pad_token_id = 5});
  std::vector<std::int64_t> fed;
  for (int step = 0; step < 4; ++step) {
    stream.advance(step == 0 ? kEos : 9, {});
    fed.push_back(stream.text());
  }
  REQUIRE(fed == std::vector<std::int64_t>{kEos, 234, 5, 5});
  REQUIRE_THROWS_WITH(SpeechStream(OmniConfig(), {.enter_token_id = 6400}),
                      "speech: enter_token_id: expected a token below vocab_size 6400, found 6400");
  REQUIRE(SpeechStream(OmniConfig(), {.max_new_tokens = 0}).finished());
}

TEST_CASE("the codes under a prompt: padding, speaker, reference") {
  OmniConfig config = small_config(false);
  const OwnedTensor speaker = randn({4}, 1, DType::f32);
  SpeechPrompt prompt{.ids = {1, 2, 3, 4, 5}};
  const std::int64_t pad = config.audio_pad_token, spk = config.audio_spk_token;
  // ref_codes with `frames` frames; frame f is 1 + f in codebook 0 and 0 in the others.
  const auto row = [&](std::int64_t frames, bool has_speaker, std::int64_t codebook = 0) {
    const OwnedTensor codes = zeros(DType::i64, {kCodebooks, frames});
    for (std::int64_t f = 0; f < frames; ++f) codes.as<std::int64_t>()[f] = 1 + f;
    prompt.ref_codes = frames > 0 ? ConstView(codes) : ConstView();
    prompt.spk_emb = has_speaker ? ConstView(speaker) : ConstView();
    const std::vector<std::int64_t> rows = prompt_rows(config, prompt);
    REQUIRE(std::vector<std::int64_t>(rows.end() - 5, rows.end()) == std::vector<std::int64_t>{1, 2, 3, 4, 5});
    return std::vector<std::int64_t>(rows.begin() + codebook * 5, rows.begin() + (codebook + 1) * 5);
  };
  using Row = std::vector<std::int64_t>;
  REQUIRE(row(0, false) == Row{pad, pad, pad, pad, pad});
  REQUIRE(row(0, true) == Row{pad, pad, pad, pad, spk});
  REQUIRE(row(2, false) == Row{pad, pad, pad, 1, 2});
  REQUIRE(row(2, true) == Row{pad, pad, spk, 1, 2});
  REQUIRE(row(2, true, 7) == Row{pad, pad, spk, 0, 0});
  REQUIRE(row(5, false) == Row{1, 2, 3, 4, 5});
  REQUIRE(row(5, true) == Row{spk, 2, 3, 4, 5});
  REQUIRE(row(7, false) == Row{3, 4, 5, 6, 7});
  REQUIRE(row(7, true) == Row{spk, 4, 5, 6, 7});

  const auto refused = [&](auto change, const char* message) {
    SpeechPrompt wrong{.ids = {1, 2, 3}};
    change(wrong);
    REQUIRE_THROWS_WITH(prompt_rows(config, wrong), Catch::Contains(message));
  };
  const OwnedTensor codes = random_ids({kCodebooks, 3}, 1, 8), floats = randn({kCodebooks, 3}, 1, DType::f32);
  refused([](SpeechPrompt& p) { p.ids.clear(); }, "the prompt is empty");
  refused([](SpeechPrompt& p) { p.ids[1] = 41; }, "token id 41 is not in the model's vocabulary of 41");
  refused([&](SpeechPrompt& p) { p.ref_codes = floats; }, "ref_codes: expected i64 [8, frames], found f32 [8, 3]");
  refused([&](SpeechPrompt& p) { p.spk_emb = floats; }, "spk_emb: expected f32 [4], found f32 [8, 3]");
  refused([&](SpeechPrompt& p) { p.audio_states = floats; }, "audio_states: expected f32 [rows, 6]");
  refused([&](SpeechPrompt& p) { p.image_states = floats; }, "image_states: expected f32 [rows, 5]");
  codes.as<std::int64_t>()[4] = config.audio_vocab_size;
  refused([&](SpeechPrompt& p) { p.ref_codes = codes; }, "ref_codes: expected codes 0 .. 10, found 11");
}

}  // namespace omni
