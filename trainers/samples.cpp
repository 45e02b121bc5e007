#include "trainers/samples.h"

#include <algorithm>

#include "kernels/cross_entropy/cross_entropy.h"
#include "models/chat_template.h"
#include "models/json_text.h"
#include "models/utf8.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kEmptyThink = "<think>\n\n</think>\n\n";

Json parse_object(std::string_view line) {
  if (line.find_first_not_of(" \t\r\n") == std::string_view::npos) throw BadSample("blank line", "nothing in it");
  if (!is_utf8(line)) throw BadSample("not valid UTF-8", "not valid UTF-8");
  Json object;
  try {
    object = parse_json<Json>(line, "line");
  } catch (const std::runtime_error& error) {
    throw BadSample("not valid JSON", error.what());
  }
  if (!object.is_object()) throw BadSample("not a JSON object", "expected an object, found " + describe_json(object));
  return object;
}

const Json& member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// A member that must be a text or absent.
const Json& text_member(const Json& message, const char* key) {
  const Json& value = member(message, key);
  if (!value.is_null() && !value.is_string())
    throw BadSample("wrong type", std::string(key) + ": expected a text, found " + describe_json(value));
  return value;
}

// JSON written as text, or given directly: a list, or null where empty or absent.
Json list_in_text(const Json& message, const char* key) {
  Json value = member(message, key);
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    if (text.empty()) return nullptr;
    try {
      value = parse_json<Json>(text, key);
    } catch (const std::runtime_error& error) {
      throw BadSample("tools that are not valid JSON", error.what());
    }
  }
  if (!value.is_null() && !value.is_array())
    throw BadSample("wrong type", std::string(key) + ": expected a list, found " + describe_json(value));
  return value.empty() ? Json() : value;
}

bool is_empty(const Json& value) { return value.is_null() || (value.is_string() ? value == "" : value.empty()); }

bool takes_system_prompt(const Conversation& conversation) {
  return !conversation.mentions_tools && member(conversation.messages.front(), "role") != "system";
}

bool starts_at(const std::vector<std::int64_t>& ids, std::size_t at, const std::vector<std::int32_t>& part) {
  return at + part.size() <= ids.size() &&
         std::equal(part.begin(), part.end(), ids.begin() + static_cast<std::ptrdiff_t>(at));
}

}  // namespace

std::string parse_pretrain(std::string_view line) {
  const Json object = parse_object(line);
  const Json& text = member(object, "text");
  if (text.is_null()) throw BadSample("missing field", "text is missing");
  if (text.is_number()) return dump_python_json(text);
  if (!text.is_string()) throw BadSample("wrong type", "text: expected a text, found " + describe_json(text));
  return text.get<std::string>();
}

Conversation parse_conversation(std::string_view line) {
  const Json object = parse_object(line);
  const Json& messages = member(object, "conversations");
  if (messages.is_null()) throw BadSample("missing field", "conversations is missing");
  if (!messages.is_array())
    throw BadSample("wrong type", "conversations: expected a list, found " + describe_json(messages));
  if (messages.empty()) throw BadSample("no messages", "conversations is empty");
  Conversation out;
  for (const Json& message : messages) {
    if (!message.is_object())
      throw BadSample("wrong type", "conversations: expected objects, found " + describe_json(message));
    if (text_member(message, "role").is_null()) throw BadSample("missing field", "a message without role");
    Json copy = Json::object();
    for (const char* key : {"role", "content", "reasoning_content"})
      if (const Json& value = text_member(message, key); !value.is_null()) copy[key] = value;
    out.mentions_tools = out.mentions_tools || !is_empty(member(message, "tools"));
    if (copy["role"] == "system" && !is_empty(member(message, "tools"))) out.tools = list_in_text(message, "tools");
    if (Json calls = list_in_text(message, "tool_calls"); !calls.is_null()) copy["tool_calls"] = std::move(calls);
    out.messages.push_back(std::move(copy));
  }
  try {
    render_chat(out.messages, {.tools = out.tools, .open_thinking = {}});
  } catch (const std::runtime_error& error) {
    throw BadSample("wrong type", error.what());
  }
  return out;
}

const std::vector<std::string>& system_prompts() {
  static const std::vector<std::string> prompts = {
      "你是一个知识丰富的AI，尽力为用户提供准确的信息。",
      "你是minimind，一个小巧但有用的语言模型。",
      "你是一个专业的AI助手，请提供有价值的回答。",
      "你是minimind，请尽力帮助用户解决问题。",
      "你是一个可靠的AI，请给出准确的回答。",
      "You are a helpful AI assistant.",
      "You are minimind, a lightweight intelligent assistant.",
      "You are a friendly chatbot. Please answer the user's questions carefully.",
      "You are a knowledgeable AI. Try your best to provide accurate information.",
      "You are minimind, a small but useful language model.",
  };
  return prompts;
}

SftDecisions draw_decisions(Philox& random) {
  SftDecisions decisions;
  if (random.uniform() < 0.2) decisions.system = static_cast<int>(random.below(system_prompts().size()));
  decisions.remove_think = random.uniform() > 0.2;
  return decisions;
}

void insert_system_prompt(Json& messages, int index) {
  messages.insert(messages.begin(),
                  Json{{"role", "system"}, {"content", system_prompts().at(static_cast<std::size_t>(index))}});
}

std::string without_empty_thinks(std::string_view text) {
  std::string out;
  for (std::size_t at; (at = text.find(kEmptyThink)) != std::string_view::npos;
       text.remove_prefix(at + kEmptyThink.size()))
    out += text.substr(0, at);
  return out += text;
}

TurnFinder::TurnFinder(const Tokenizer& tokenizer)
    : header_(tokenizer.encode(std::string(tokenizer.token_bytes(tokenizer.bos_id())) + "assistant\n")),
      end_(tokenizer.encode(std::string(tokenizer.token_bytes(tokenizer.eos_id())) + "\n")) {}

std::vector<TurnFinder::Turn> TurnFinder::find(const std::vector<std::int64_t>& ids) const {
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < ids.size();) {
    if (!starts_at(ids, i, header_)) {
      ++i;
      continue;
    }
    const std::size_t begin = i + header_.size();
    std::size_t end = begin;
    while (end < ids.size() && !starts_at(ids, end, end_)) ++end;
    i = std::min(end + end_.size(), ids.size());
    turns.push_back({begin, end, i});
  }
  return turns;
}

SampleAssembler::SampleAssembler(const Tokenizer& tokenizer, std::int64_t max_seq_len)
    : tokenizer_(tokenizer),
      max_seq_len_(max_seq_len),
      bos_(tokenizer.bos_id()),
      eos_(tokenizer.eos_id()),
      pad_(tokenizer.pad_id()),
      turns_(tokenizer) {}

Sample SampleAssembler::padded(std::vector<std::int64_t> ids, bool truncated) const {
  Sample sample;
  sample.length = static_cast<std::int64_t>(ids.size());
  sample.truncated = truncated;
  sample.ids = std::move(ids);
  sample.ids.resize(static_cast<std::size_t>(max_seq_len_), pad_);
  sample.labels.assign(sample.ids.size(), kIgnoreIndex);
  return sample;
}

Sample SampleAssembler::pretrain(std::string_view text) const {
  const std::vector<std::int32_t> tokens = tokenizer_.encode(text);
  const std::size_t kept = std::min(tokens.size(), static_cast<std::size_t>(max_seq_len_ - 2));
  std::vector<std::int64_t> ids = {bos_};
  ids.insert(ids.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept));
  ids.push_back(eos_);
  Sample sample = padded(std::move(ids), kept < tokens.size());
  for (std::size_t i = 0; i < sample.ids.size(); ++i)
    if (sample.ids[i] != pad_) sample.labels[i] = sample.ids[i];
  return sample;
}

Sample SampleAssembler::sft(const Conversation& conversation, const SftDecisions& decisions) const {
  Json messages = conversation.messages;
  if (decisions.system >= 0 && takes_system_prompt(conversation)) insert_system_prompt(messages, decisions.system);
  std::string text = render_chat(messages, {.tools = conversation.tools, .open_thinking = {}});
  if (decisions.remove_think) text = without_empty_thinks(text);

  const std::vector<std::int32_t> tokens = tokenizer_.encode(text);
  const std::size_t kept = std::min(tokens.size(), static_cast<std::size_t>(max_seq_len_));
  Sample sample = padded({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept)}, kept < tokens.size());
  for (const TurnFinder::Turn& turn : turns_.find(sample.ids))
    std::copy(sample.ids.begin() + static_cast<std::ptrdiff_t>(turn.begin),
              sample.ids.begin() + static_cast<std::ptrdiff_t>(turn.behind),
              sample.labels.begin() + static_cast<std::ptrdiff_t>(turn.begin));
  return sample;
}

}  // namespace omni
