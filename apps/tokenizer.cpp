// tokenizer: texts to token ids and back, conversations to prompts, JSON lines in and out.

#include "models/tokenizer.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/suggest.h"
#include "models/chat_template.h"
#include "models/json_text.h"

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  echo '{"text": "Hello!"}' | tokenizer encode --model MODEL
  {"ids": [1602, 36]}
  echo '{"ids": [1602, 36, 2]}' | tokenizer decode --model MODEL --skip-special
  {"text": "Hello!"}
  echo '{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}' |
    tokenizer template | tokenizer encode --model MODEL

Each line of standard input gives one line of standard output, in order. A line that cannot be read (no JSON, a missing
field, an unknown id) ends the program with an error that names the line; the lines before it have been answered.
Exit code: 0 if all lines were answered, 1 after an error; other codes: the command line is wrong.)";

// The field of a line, or an error that suggests the nearest name that is there.
const Json& field(const Json& line, const char* name) {
  if (!line.is_object()) throw std::runtime_error("expected an object, found " + omni::describe_json(line));
  const auto found = line.find(name);
  if (found != line.end()) return *found;
  std::string nearest = "nothing of the kind";
  for (const auto& [key, value] : line.items())
    if (!omni::nearest_name(key, std::vector<std::string>{name}).empty()) nearest = "\"" + key + "\"";
  throw std::runtime_error("expected a field \"" + std::string(name) + "\", found " + nearest);
}

bool flag(const Json& line, const char* name, bool fallback) {
  if (!line.contains(name) || line[name].is_null()) return fallback;
  if (!line[name].is_boolean())
    throw std::runtime_error(std::string(name) + ": expected true or false, found " + omni::describe_json(line[name]));
  return line[name].get<bool>();
}

Json encode(const omni::Tokenizer& tokenizer, const Json& line) {
  const Json& text = field(line, "text");
  if (!text.is_string()) throw std::runtime_error("text: expected a text, found " + omni::describe_json(text));
  return {{"ids", tokenizer.encode(text.get_ref<const std::string&>())}};
}

Json decode(const omni::Tokenizer& tokenizer, bool skip_special, const Json& line) {
  const Json& list = field(line, "ids");
  if (!list.is_array()) throw std::runtime_error("ids: expected a list, found " + omni::describe_json(list));
  std::vector<std::int32_t> ids;
  for (const Json& id : list) {
    const bool fits = id.is_number_unsigned() && id.get<std::uint64_t>() <= INT32_MAX;
    if (!fits) throw std::runtime_error("ids: expected token ids, found " + omni::describe_json(id));
    ids.push_back(id.get<std::int32_t>());
  }
  return {{"text", tokenizer.decode(ids, flag(line, "skip_special", skip_special))}};
}

Json render(const Json& line) {
  omni::ChatOptions options;
  const Json& messages = field(line, "messages");
  if (line.contains("tools")) options.tools = line["tools"];
  options.add_generation_prompt = flag(line, "add_generation_prompt", false);
  if (line.contains("open_thinking")) options.open_thinking = flag(line, "open_thinking", false);
  return {{"text", omni::render_chat(messages, options)}};
}

void answer_lines(const std::function<Json(const Json&)>& answer) {
  std::string line;
  for (long number = 1; std::getline(std::cin, line); ++number) {
    try {
      std::cout << omni::dump_python_json(answer(omni::parse_json<Json>(line, "input"))) << '\n';
    } catch (const std::exception& error) {
      std::cout.flush();
      throw std::runtime_error("line " + std::to_string(number) + ": " + error.what());
    }
    if (!std::cout) break;
  }
  if (!std::cout.flush()) throw std::runtime_error("cannot write to standard output");
  if (std::cin.bad()) throw std::runtime_error("cannot read standard input");
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  std::cin.tie(nullptr);
  CLI::App app("Texts to token ids and back, conversations to prompts: JSON lines in and out.");
  app.footer(kFooter);
  app.require_subcommand(1);
  std::string model;
  bool skip_special = false;
  CLI::App* encoder = app.add_subcommand("encode", "{\"text\": ...} to {\"ids\": [...]}");
  CLI::App* decoder = app.add_subcommand("decode", "{\"ids\": [...], optional \"skip_special\"} to {\"text\": ...}");
  CLI::App* renderer = app.add_subcommand("template",
                                          "{\"messages\": [...], optional \"tools\", \"add_generation_prompt\", "
                                          "\"open_thinking\"} to {\"text\": ...}");
  for (CLI::App* command : {encoder, decoder})
    command->add_option("--model", model, "Directory with tokenizer.json and tokenizer_config.json")->required();
  renderer->add_option("--model", model, "Accepted for symmetry: the template is the same for all models");
  decoder->add_flag("--skip-special", skip_special, "Drop special tokens, unless a line says otherwise");
  CLI11_PARSE(app, argc, argv);
  try {
    if (*renderer) {
      answer_lines(render);
      return 0;
    }
    const omni::Tokenizer tokenizer = omni::Tokenizer::load(model);
    answer_lines(
        [&](const Json& line) { return *encoder ? encode(tokenizer, line) : decode(tokenizer, skip_special, line); });
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "tokenizer: " << error.what() << '\n';
    return 1;
  }
}
