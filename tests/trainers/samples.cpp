#include "trainers/samples.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>

#include "tests/trainers/small_run.h"

namespace omni {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = [] {
    TemporaryFolder folder;
    write_byte_tokenizer(folder.path());
    return Tokenizer::load(folder.path());
  }();
  return loaded;
}

std::string learnt(const Sample& sample) {
  std::vector<std::int32_t> ids;
  for (const std::int64_t label : sample.labels)
    if (label != -100) ids.push_back(static_cast<std::int32_t>(label));
  return tokenizer().decode(ids);
}

TEST_CASE("a pretraining sample") {
  const SampleAssembler assembler(tokenizer(), 6);
  const Sample fits = assembler.pretrain("ab");
  CHECK(fits.ids == std::vector<std::int64_t>{1, 100, 101, 2, 0, 0});
  CHECK(fits.labels == std::vector<std::int64_t>{1, 100, 101, 2, -100, -100});
  CHECK(fits.length == 4);
  CHECK_FALSE(fits.truncated);
  const Sample cut = assembler.pretrain("abcdefg");
  CHECK(cut.ids == std::vector<std::int64_t>{1, 100, 101, 102, 103, 2});
  CHECK(cut.truncated);
}

TEST_CASE("the labels of an sft sample are all that the assistant says") {
  const Conversation chat = parse_conversation(
      R"({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one"},
          {"role": "user", "content": "r"}, {"role": "assistant", "content": "two"}]})");
  const SampleAssembler assembler(tokenizer(), 400);
  CHECK(learnt(assembler.sft(chat, {-1, true})) == "one<|im_end|>\ntwo<|im_end|>\n");
  CHECK(learnt(assembler.sft(chat, {5, false})) ==
        "<think>\n\n</think>\n\none<|im_end|>\n<think>\n\n</think>\n\ntwo<|im_end|>\n");
  const Sample with_system = assembler.sft(chat, {5, true});
  std::vector<std::int32_t> ids(with_system.ids.begin(), with_system.ids.begin() + with_system.length);
  CHECK(tokenizer().decode(ids).starts_with("<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"));
  // Cut inside of the second answer: the labels end with the sample.
  const std::int64_t length = assembler.sft(chat, {-1, true}).length;
  const Sample cut = SampleAssembler(tokenizer(), length - 3).sft(chat, {-1, true});
  CHECK(cut.truncated);
  CHECK(learnt(cut) == "one<|im_end|>\ntw");
}

TEST_CASE("a system prompt is put in front only of conversations without system message and tools") {
  const SampleAssembler assembler(tokenizer(), 400);
  for (const char* line :
       {R"({"conversations": [{"role": "system", "content": "q"}, {"role": "user", "content": "q"}]})",
        R"({"conversations": [{"role": "user", "content": "q", "tools": "[{\"a\": 1}]"}]})"}) {
    const Conversation chat = parse_conversation(line);
    CHECK(assembler.sft(chat, {3, true}).ids == assembler.sft(chat, {-1, true}).ids);
  }
  const Conversation plain = parse_conversation(R"({"conversations": [{"role": "user", "content": "q"}]})");
  CHECK(assembler.sft(plain, {3, true}).ids != assembler.sft(plain, {-1, true}).ids);
}

TEST_CASE("the random decisions have the original's frequencies") {
  constexpr int kDraws = 20000;
  int inserted = 0, removed = 0;
  std::array<int, 10> which{};
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    Philox random(7, RandomStream::augmentation, i), same(7, RandomStream::augmentation, i);
    const SftDecisions decisions = draw_decisions(random), again = draw_decisions(same);
    REQUIRE(decisions.system == again.system);
    REQUIRE(decisions.remove_think == again.remove_think);
    inserted += decisions.system >= 0;
    removed += decisions.remove_think;
    if (decisions.system >= 0) ++which.at(static_cast<std::size_t>(decisions.system));
  }
  // Five standard deviations of a binomial count.
  CHECK(std::abs(inserted - kDraws / 5) < 5 * std::sqrt(kDraws * 0.16));
  CHECK(std::abs(removed - kDraws * 4 / 5) < 5 * std::sqrt(kDraws * 0.16));
  for (const int count : which) CHECK(std::abs(count - kDraws / 50) < 5 * std::sqrt(kDraws * 0.02));
}

TEST_CASE("lines that are no samples are told apart") {
  const auto kind = [](auto parse, const std::string& line) -> std::string {
    try {
      parse(line);
    } catch (const BadSample& error) {
      return error.kind();
    }
    return "";
  };
  CHECK(kind(parse_pretrain, R"({"text": ""})") == "");
  CHECK(kind(parse_pretrain, R"({"text": null})") == "missing field");
  CHECK(kind(parse_pretrain, R"({"text": [1]})") == "wrong type");
  CHECK(parse_pretrain(R"({"text": 12.5})") == "12.5");
  CHECK(kind(parse_pretrain, R"(["text"])") == "not a JSON object");
  CHECK(kind(parse_pretrain, "{\"text\": \"a") == "not valid JSON");
  CHECK(kind(parse_pretrain, "{\"text\": \"\xff\"}") == "not valid UTF-8");
  CHECK(kind(parse_pretrain, std::string(100000, '[')) == "not valid JSON");
  CHECK(kind(parse_pretrain, " \t\r") == "blank line");
  CHECK(kind(parse_conversation, R"({"text": "a"})") == "missing field");
  CHECK(kind(parse_conversation, R"({"conversations": []})") == "no messages");
  CHECK(kind(parse_conversation, R"({"conversations": ["a"]})") == "wrong type");
  CHECK(kind(parse_conversation, R"({"conversations": [{"content": "a"}]})") == "missing field");
  CHECK(kind(parse_conversation, R"({"conversations": [{"role": "user", "content": 3}]})") == "wrong type");
  CHECK(kind(parse_conversation, R"({"conversations": [{"role": "system", "tools": "[oops"}]})") ==
        "tools that are not valid JSON");
  CHECK(kind(parse_conversation, R"({"conversations": [{"role": "assistant", "tool_calls": "{}"}]})") == "wrong type");
  CHECK(kind(parse_conversation, R"({"conversations": [{"role": "assistant", "tool_calls": "[3]"}]})") == "wrong type");
  CHECK(kind(parse_conversation, R"({"conversations": [{"role": "user", "content": null, "tools": ""}]})") == "");
}

}  // namespace
}  // namespace omni
