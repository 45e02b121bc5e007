#include "models/chat_template.h"

#include <catch2/catch.hpp>

#include "models/json_text.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

Json message(const char* role, const char* content) { return {{"role", role}, {"content", content}}; }

// An assistant turn without reasoning.
std::string reply(const std::string& text) {
  return "<|im_start|>assistant\n<think>\n\n</think>\n\n" + text + "<|im_end|>\n";
}

constexpr const char* kPrompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n";

TEST_CASE("chat template: turns and the generation prompt") {
  const Json hi = message("user", "Hi");
  const std::string user = "<|im_start|>user\nHi<|im_end|>\n";
  const auto prompt = [](std::optional<bool> thinking) {
    return ChatOptions{.tools = {}, .add_generation_prompt = true, .open_thinking = thinking};
  };
  CHECK(render_chat(Json::array({hi})) == user);
  CHECK(render_chat({hi, message("assistant", "Hello!")}) == user + reply("Hello!"));
  CHECK(render_chat(Json::array({hi}), prompt({})) == user + kPrompt);
  CHECK(render_chat(Json::array({hi}), prompt(false)) == user + kPrompt);
  CHECK(render_chat(Json::array({hi}), prompt(true)) == user + "<|im_start|>assistant\n<think>\n");
  CHECK(render_chat({message("system", "S"), hi}, prompt({})) == "<|im_start|>system\nS<|im_end|>\n" + user + kPrompt);
  CHECK(render_chat({message("user", "q"), message("assistant", "<think>\nabc\n</think>\n\nans"),
                     message("system", "mid"), message("user", "q2")},
                    prompt({})) ==
        "<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nabc\n</think>\n\nans<|im_end|>\n"
        "<|im_start|>system\nmid<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n" +
            std::string(kPrompt));
}

TEST_CASE("chat template: tools, tool calls and their results") {
  const Json tool = Json::parse(R"({"type":"function","function":{"name":"translate_text","description":"翻译",
    "parameters":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}}})");
  const Json calls = Json::parse(R"([{"name":"translate_text","arguments":{"text":"你好","n":1}},
    {"type":"function","function":{"name":"b","arguments":"{}"}}])");
  Json calling = message("assistant", "");
  calling["tool_calls"] = calls;
  const Json chat = {message("system", "S"),       message("user", "把x"),       calling,
                     message("tool", "{\"r\":1}"), message("tool", "{\"r\":2}"), message("assistant", "Hello")};
  const std::string functions =
      "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
      "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
      "{\"type\": \"function\", \"function\": {\"name\": \"translate_text\", \"description\": \"翻译\", "
      "\"parameters\": "
      "{\"type\": \"object\", \"properties\": {\"text\": {\"type\": \"string\"}}, \"required\": [\"text\"]}}}\n"
      "</tools>\n\n"
      "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
      "XML "
      "tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";
  const std::string turns =
      "<|im_start|>user\n把x<|im_end|>\n" +
      reply(
          "<tool_call>\n{\"name\": \"translate_text\", \"arguments\": {\"text\": \"你好\", \"n\": 1}}\n</tool_call>\n"
          "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>") +
      "<|im_start|>user\n<tool_response>\n{\"r\":1}\n</tool_response>\n"
      "<tool_response>\n{\"r\":2}\n</tool_response><|im_end|>\n" +
      reply("Hello");
  CHECK(render_chat(chat, {.tools = Json::array({tool}), .add_generation_prompt = false, .open_thinking = {}}) ==
        "<|im_start|>system\nS\n\n" + functions + turns);
  CHECK(render_chat(Json(chat.begin() + 1, chat.end()),
                    {.tools = Json::array({tool}), .add_generation_prompt = false, .open_thinking = {}}) ==
        "<|im_start|>system\n" + functions + turns);
  const std::string plain_head = "<|im_start|>system\nS<|im_end|>\n";
  CHECK(render_chat(chat, {.tools = Json::array(), .add_generation_prompt = false, .open_thinking = {}}) ==
        plain_head + turns);
  CHECK(render_chat(Json::array({message("tool", "x")})) ==
        "<|im_start|>user\n<tool_response>\nx\n</tool_response><|im_end|>\n");
}

TEST_CASE("chat template: a call after text begins on a new line") {
  Json calling = message("assistant", "ok");
  calling["tool_calls"] = Json::parse(R"([{"name": "f", "arguments": [1, 2.0, null]}])");
  CHECK(render_chat(Json::array({calling})) ==
        reply("ok\n<tool_call>\n{\"name\": \"f\", \"arguments\": [1, 2.0, null]}\n</tool_call>"));
  for (const char* absent : {"null", "[]", "\"\"", "false"}) {
    calling["tool_calls"] = Json::parse(absent);
    CHECK(render_chat(Json::array({calling})) == reply("ok"));
  }
}

TEST_CASE("chat template: reasoning") {
  const auto turn = [](const std::string& reasoning, const std::string& text) {
    return "<|im_start|>assistant\n<think>\n" + reasoning + "\n</think>\n\n" + text + "<|im_end|>\n";
  };
  const auto render = [](const char* content) { return render_chat(Json::array({message("assistant", content)})); };
  CHECK(render("\n\nx\n") == turn("", "x\n"));
  CHECK(render("<think>a") == turn("", "<think>a"));
  CHECK(render("a</think>b") == turn("a", "b"));
  CHECK(render("0<think>1<think>\n2\n\n</think>\n3</think>\n\n4") == turn("2", "4"));
  CHECK(render("</think>") == turn("", ""));
  Json given = message("assistant", "<think>x</think>y");
  given["reasoning_content"] = "\n\nwhy\n";
  CHECK(render_chat(Json::array({given})) == turn("why", "<think>x</think>y"));
  given["reasoning_content"] = nullptr;
  CHECK(render_chat(Json::array({given})) == turn("x", "y"));
}

TEST_CASE("chat template: odd messages") {
  const Json odd = {{{"role", "user"}, {"content", nullptr}},
                    {{"role", "user"}, {"content", Json::array({1})}},
                    {{"role", "user"}},
                    {{"role", "critic"}, {"content", "x"}},
                    {{"role", 7}, {"content", "x"}},
                    Json::object()};
  const std::string empty_turn = "<|im_start|>user\n<|im_end|>\n";
  CHECK(render_chat(odd) == empty_turn + empty_turn + empty_turn);
  CHECK(render_chat(Json::array({message("user", "\xFF\xE4")})) == "<|im_start|>user\n\xFF\xE4<|im_end|>\n");
  CHECK_THROWS_WITH(render_chat(Json::array()), Catch::Contains("messages: expected"));
  CHECK_THROWS_WITH(render_chat("x"), Catch::Contains("messages: expected"));
  CHECK_THROWS_WITH(render_chat(Json::array({message("user", "a"), 5})), Catch::Contains("messages[1]"));
  ChatOptions options;
  options.tools = "f";
  CHECK_THROWS_WITH(render_chat(Json::array({message("user", "a")}), options), Catch::Contains("tools: expected"));
  Json calling = message("assistant", "");
  for (const char* calls :
       {"5", "[5]", "[{\"name\": 1, \"arguments\": {}}]", "[{\"arguments\": {}}]", "[{\"name\": \"f\"}]"}) {
    calling["tool_calls"] = Json::parse(calls);
    CHECK_THROWS_WITH(render_chat(Json::array({calling})),
                      Catch::StartsWith("messages[0]: tool_calls") && Catch::Contains("expected"));
  }
}

TEST_CASE("JSON as Python writes it") {
  const auto dump = [](const char* text) { return dump_python_json(Json::parse(text)); };
  CHECK(dump(R"({"b":[1,-2,18446744073709551615],"a":{},"c":[]})") ==
        R"({"b": [1, -2, 18446744073709551615], "a": {}, "c": []})");
  CHECK(dump(R"([true,false,null,"é\u4f60"])") == "[true, false, null, \"é你\"]");
  CHECK(dump(R"("\"\\\/\b\f\n\r\t\u0000\u001f\u007f\u2028")") ==
        "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7F\u2028\"");
  CHECK(dump("[1.0,-0.0,0.1,1e15,1e16,123456789012345680000.0,0.0001,0.00001,1.5e-7,1e300,5e-324]") ==
        "[1.0, -0.0, 0.1, 1000000000000000.0, 1e+16, 1.2345678901234568e+20, 0.0001, 1e-05, 1.5e-07, 1e+300, 5e-324]");
  CHECK(python_float(INFINITY) == "Infinity");
  CHECK(python_float(-INFINITY) == "-Infinity");
  CHECK(python_float(NAN) == "NaN");
  CHECK(parse_json<Json>(R"({"a":1,"b":2,"a":3})", "t").dump() == R"({"a":3,"b":2})");
  CHECK_THROWS_WITH(parse_json<Json>("1e999", "t"), Catch::StartsWith("t: not valid JSON"));
  CHECK_THROWS_WITH(parse_json<Json>("\"\xFF\"", "t"), Catch::StartsWith("t: not valid JSON"));
  const std::string deep = std::string(kDeepestJson, '[') + std::string(kDeepestJson, ']');
  CHECK(dump_python_json(parse_json<Json>(deep, "t")) == deep);
  CHECK_THROWS_WITH(parse_json<Json>("[" + deep + "]", "t"), Catch::Contains("deep"));
}

}  // namespace
}  // namespace omni
