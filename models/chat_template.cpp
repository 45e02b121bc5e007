#include "models/chat_template.h"

#include <stdexcept>
#include <string_view>

#include "models/json_text.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kToolsHead =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsTail =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";
constexpr std::string_view kThinkOpen = "<think>", kThinkClose = "</think>";

std::string_view without_leading_newlines(std::string_view text) {
  const auto start = text.find_first_not_of('\n');
  return start == text.npos ? std::string_view() : text.substr(start);
}

std::string_view without_trailing_newlines(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

const Json& member(const Json& object, const char* key) {
  static const Json missing;
  const auto found = object.find(key);
  return found == object.end() ? missing : *found;
}

std::string_view text_or_empty(const Json& value) {
  return value.is_string() ? std::string_view(value.get_ref<const std::string&>()) : std::string_view();
}

std::string_view role(const Json& message) { return text_or_empty(member(message, "role")); }
std::string_view content(const Json& message) { return text_or_empty(member(message, "content")); }

// False, 0, an empty text, list or object and null count as absent, as they do in the template language.
bool is_absent(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" || (value.is_structured() && value.empty());
}

struct AssistantTurn {
  std::string_view reasoning, reply;
};

AssistantTurn split_reasoning(const Json& message) {
  const std::string_view text = content(message);
  const Json& given = member(message, "reasoning_content");
  if (given.is_string()) return {text_or_empty(given), text};
  const auto first_close = text.find(kThinkClose);
  if (first_close == text.npos) return {"", text};
  std::string_view reasoning = without_trailing_newlines(text.substr(0, first_close));
  const auto last_open = reasoning.rfind(kThinkOpen);
  if (last_open != reasoning.npos) reasoning.remove_prefix(last_open + kThinkOpen.size());
  const std::string_view reply = text.substr(text.rfind(kThinkClose) + kThinkClose.size());
  return {without_leading_newlines(reasoning), without_leading_newlines(reply)};
}

void append_tool_call(std::string& out, const Json& entry, const std::string& where) {
  if (!entry.is_object()) throw std::runtime_error(where + ": expected an object, found " + describe_json(entry));
  const Json& function = member(entry, "function");
  const Json& call = function.is_object() && !function.empty() ? function : entry;
  const Json &name = member(call, "name"), &arguments = member(call, "arguments");
  if (!name.is_string()) throw std::runtime_error(where + ": name: expected a text, found " + describe_json(name));
  if (!call.contains("arguments"))
    throw std::runtime_error(where + ": arguments: expected text or JSON, found nothing");
  out.append("<tool_call>\n{\"name\": \"").append(text_or_empty(name)).append("\", \"arguments\": ");
  out += arguments.is_string() ? arguments.get<std::string>() : dump_python_json(arguments);
  out += "}\n</tool_call>";
}

void append_assistant(std::string& out, const Json& message, const std::string& where) {
  const auto [reasoning, reply] = split_reasoning(message);
  out += "<|im_start|>assistant\n<think>\n";
  out += without_trailing_newlines(without_leading_newlines(reasoning));
  out += "\n</think>\n\n";
  out += without_leading_newlines(reply);
  const Json& calls = member(message, "tool_calls");
  if (!is_absent(calls)) {
    if (!calls.is_array())
      throw std::runtime_error(where + ": tool_calls: expected a list, found " + describe_json(calls));
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (i > 0 || !reply.empty()) out += '\n';
      append_tool_call(out, calls[i], where + ": tool_calls[" + std::to_string(i) + "]");
    }
  }
  out += "<|im_end|>\n";
}

void append_turn(std::string& out, std::string_view role, std::string_view text) {
  out.append("<|im_start|>").append(role).append("\n").append(text).append("<|im_end|>\n");
}

void append_message(std::string& out, const Json& messages, std::size_t i) {
  const Json& message = messages[i];
  const auto is_tool = [&](std::size_t k) { return k < messages.size() && role(messages[k]) == "tool"; };
  if (role(message) == "user" || (role(message) == "system" && i > 0)) {
    append_turn(out, role(message), content(message));
  } else if (role(message) == "assistant") {
    append_assistant(out, message, "messages[" + std::to_string(i) + "]");
  } else if (role(message) == "tool") {  // neighbouring results share one user turn
    if (i == 0 || !is_tool(i - 1)) out += "<|im_start|>user";
    out.append("\n<tool_response>\n").append(content(message)).append("\n</tool_response>");
    if (!is_tool(i + 1)) out += "<|im_end|>\n";
  }
}

void append_head(std::string& out, const Json& first, const Json& tools) {
  const bool has_system = role(first) == "system";
  if (is_absent(tools)) {
    if (has_system) append_turn(out, "system", content(first));
    return;
  }
  if (!tools.is_array()) throw std::runtime_error("tools: expected a list, found " + describe_json(tools));
  out += "<|im_start|>system\n";
  if (has_system) out.append(content(first)).append("\n\n");
  out += kToolsHead;
  for (const Json& tool : tools) out += "\n" + dump_python_json(tool);
  out += kToolsTail;
}

}  // namespace

std::string render_chat(const Json& messages, const ChatOptions& options) {
  if (!messages.is_array() || messages.empty())
    throw std::runtime_error("messages: expected a list of at least one message, found " + describe_json(messages));
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (!messages[i].is_object())
      throw std::runtime_error("messages[" + std::to_string(i) + "]: expected an object, found " +
                               describe_json(messages[i]));
  std::string out;
  append_head(out, messages[0], options.tools);
  for (std::size_t i = 0; i < messages.size(); ++i) append_message(out, messages, i);
  if (options.add_generation_prompt) {
    out += "<|im_start|>assistant\n<think>\n";
    if (!options.open_thinking.value_or(false)) out += "\n</think>\n\n";
  }
  return out;
}

}  // namespace omni
