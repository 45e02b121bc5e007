// The tokenizer and the chat template against what the original libraries gave for the same inputs.
// Folder: $OMNI_GOLDENS/tokenizer if the variable is set, else tests/golden/data/tokenizer.

#include "models/tokenizer.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "engine/files.h"
#include "models/chat_template.h"
#include "models/json_text.h"
#include "tests/support/goldens.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

Json read(const char* name) {
  const auto path = golden_folder("tokenizer") / name;
  return parse_json<Json>(read_text_file(path), path.string());
}

TEST_CASE("the tokenizer encodes as the original") {
  const Tokenizer tokenizer = Tokenizer::load(golden_folder("tokenizer"));
  const Json cases = read("cases.json");
  REQUIRE(cases.at("encode").size() > 0);
  for (int pass = 0; pass < 2; ++pass) {  // the second from the cache
    for (const Json& one : cases.at("encode")) {
      CAPTURE(one.dump());
      REQUIRE(tokenizer.encode(one.at("text").get<std::string>()) == one.at("ids").get<std::vector<std::int32_t>>());
    }
  }
}

TEST_CASE("the tokenizer decodes as the original") {
  const Tokenizer tokenizer = Tokenizer::load(golden_folder("tokenizer"));
  const Json cases = read("cases.json");
  REQUIRE(cases.at("decode").size() > 0);
  for (const Json& one : cases.at("decode")) {
    CAPTURE(one.dump());
    const auto ids = one.at("ids").get<std::vector<std::int32_t>>();
    for (const bool skip_special : {false, true}) {
      const auto expected = one.at(skip_special ? "text_skip_special" : "text").get<std::string>();
      REQUIRE(tokenizer.decode(ids, skip_special) == expected);
      StreamingDecoder stream(tokenizer, skip_special);
      std::string streamed;
      for (const std::int32_t id : ids) streamed += stream.push(id);
      REQUIRE(streamed + stream.finish() == expected);
    }
  }
}

TEST_CASE("the chat template renders as the original") {
  const Json chats = read("chat.json");
  REQUIRE(chats.size() > 0);
  for (const Json& chat : chats) {
    CAPTURE(chat.dump());
    ChatOptions options;
    options.add_generation_prompt = chat.at("add_generation_prompt").get<bool>();
    if (chat.contains("tools")) options.tools = chat.at("tools");
    if (chat.contains("open_thinking")) options.open_thinking = chat.at("open_thinking").get<bool>();
    REQUIRE(render_chat(chat.at("messages"), options) == chat.at("text").get<std::string>());
  }
}

// The published tokenizer of MiniMind is not part of this repository; these texts need its vocabulary.
TEST_CASE("texts in the original's vocabulary") {
  const Tokenizer tokenizer = Tokenizer::load(golden_folder("tokenizer"));
  if (tokenizer.token_id("你好") != 1968) {
    WARN("another vocabulary than the original's: only the generated cases above were compared");
    return;
  }
  const auto check = [&](const std::string& text, const std::vector<std::int32_t>& ids) {
    CAPTURE(text);
    CHECK(tokenizer.encode(text) == ids);
    CHECK(tokenizer.decode(ids) == text);
  };
  check("\n\n", {234, 234});
  check("</think>\n\n", {26, 234, 234});
  check("<|im_start|>assistant\n", {1, 1388, 570, 811, 234});
  check("<|im_end|>\n", {2, 234});
  check(render_chat({{{"role", "user"}, {"content", "Hi"}}},
                    {.tools = {}, .add_generation_prompt = true, .open_thinking = {}}),
        {1, 832, 311, 234, 75, 108, 2, 234, 1, 1388, 570, 811, 234, 25, 234, 234, 26, 234, 234});
  check("Hello, please introduce yourself.", {1602, 47, 1765, 6367, 473, 1039, 4558, 49});
  check("你好，请介绍一下你自己。", {1968, 294, 960, 2919, 2360, 441, 1153, 302});
  check("can't", {102, 325, 1445});
  check("don't  stop", {103, 310, 1445, 256, 580, 1506});
  check("  a", {256, 299});
  check("a\n\n\n b", {100, 234, 234, 234, 363});
  check(" \n \n", {256, 1925, 234});
  check("<|im_start|>assistant\n  text", {1, 1388, 570, 811, 1925, 1851});
  check("😀", {4544, 282, 258});
  check("<image>", {63, 467, 834, 65});
  check("<tool_call>\n{\"name\": \"f\"}\n</tool_call>", {21, 234, 126, 37, 2533, 3149, 536, 105, 37, 128, 234, 22});
  CHECK(tokenizer.decode(std::vector<std::int32_t>{1968, 201, 75}) == "你好\uFFFDH");
  CHECK(tokenizer.vocab_size() == 6400);
  CHECK(tokenizer.bos_id() == 1);
  CHECK(tokenizer.eos_id() == 2);
  CHECK(tokenizer.pad_id() == 0);
}

}  // namespace
}  // namespace omni
