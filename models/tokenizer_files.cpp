// Reads tokenizer.json (format of the Hugging Face tokenizers library) and tokenizer_config.json.

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <utility>

#include "models/json_fields.h"
#include "models/json_text.h"
#include "models/tokenizer.h"
#include "models/utf8.h"

namespace omni {
namespace {

constexpr std::int64_t kLargestId = (1 << 20) - 1;

using Ids = std::unordered_map<std::string, std::int32_t>;  // by the token as written in the file

// The stand-in of each byte in the files (Radford et al. 2019): printable bytes stand for themselves, the others are
// U+0100, U+0101, ... in order.
std::unordered_map<std::string, unsigned char> stand_ins() {
  std::unordered_map<std::string, unsigned char> bytes;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const unsigned code = printable ? byte : next++;
    std::string text(1, static_cast<char>(code));
    if (code >= 0x80) text = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    bytes.emplace(text, static_cast<unsigned char>(byte));
  }
  return bytes;
}

// The bytes that a token of the vocabulary stands for; one with other characters stands for itself.
std::string to_bytes(std::string_view token) {
  static const auto kBytes = stand_ins();
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = utf8_part(token, at).length;
    const auto found = kBytes.find(std::string(token.substr(at, length)));
    if (found == kBytes.end()) return std::string(token);
    bytes += static_cast<char>(found->second);
    at += length;
  }
  return bytes;
}

// Fields that change what is computed must have the one value that is implemented.
void expect_null(const JsonFields& fields, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys)
    if (fields.has(key)) fields.fail(key, "null (nothing else is implemented)");
}

void expect_flag(const JsonFields& fields, std::string_view key, bool expected, bool fallback) {
  if (fields.boolean(key, fallback) != expected)
    fields.fail(key, expected ? "true (false is not implemented)" : "false (true is not implemented)");
}

void expect_type(const JsonFields& fields, const std::string& type) {
  if (fields.text("type") != type) fields.fail("type", "\"" + type + "\" (nothing else is implemented)");
}

void expect_no_affix(const JsonFields& model, std::string_view key) {
  if (!model.text(key, "").empty()) model.fail(key, "null (sub-word marks are not implemented)");
}

void check_pipeline(const JsonFields& file) {
  expect_null(file, {"normalizer", "truncation", "padding"});
  const JsonFields pre_tokenizer = file.object("pre_tokenizer");
  expect_type(pre_tokenizer, "ByteLevel");
  expect_flag(pre_tokenizer, "add_prefix_space", false, true);
  expect_flag(pre_tokenizer, "use_regex", true, true);
  expect_type(file.object("decoder"), "ByteLevel");
  // A ByteLevel post-processor only moves the offsets of tokens, which nobody asks for here.
  if (file.has("post_processor")) expect_type(file.object("post_processor"), "ByteLevel");
}

void check_model(const JsonFields& model) {
  if (model.has("type")) expect_type(model, "BPE");
  expect_null(model, {"dropout"});
  expect_no_affix(model, "continuing_subword_prefix");
  expect_no_affix(model, "end_of_word_suffix");
  expect_flag(model, "byte_fallback", false, false);
  expect_flag(model, "ignore_merges", false, false);
}

TokenizerFiles::Token& slot(TokenizerFiles& files, std::int64_t id) {
  if (static_cast<std::size_t>(id) >= files.tokens.size()) files.tokens.resize(static_cast<std::size_t>(id) + 1);
  return files.tokens[static_cast<std::size_t>(id)];
}

Ids read_vocabulary(const JsonFields& model, TokenizerFiles& files) {
  const JsonFields vocabulary = model.object("vocab");
  Ids ids;
  for (const auto& [text, value] : model.at("vocab").items()) {
    const auto id = vocabulary.integer(text, 0, kLargestId);
    TokenizerFiles::Token& token = slot(files, id);
    if (token.exists) vocabulary.fail(text, "an id that no other token has");
    token = {.bytes = to_bytes(text), .exists = true};
    ids.emplace(text, static_cast<std::int32_t>(id));
  }
  for (const auto& [text, byte] : stand_ins()) {
    const auto found = ids.find(text);
    if (found == ids.end()) vocabulary.fail(text, "a token for each of the 256 bytes");
    files.byte_ids[byte] = found->second;
  }
  return ids;
}

// A merge is ["a", "b"] or, in older files, "a b".
std::pair<std::string, std::string> merge_parts(const nlohmann::json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const auto space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  return {};
}

void read_merges(const JsonFields& model, const Ids& ids, TokenizerFiles& files) {
  const nlohmann::json& merges = model.list("merges");
  const auto fail = [&](std::size_t i, const std::string& expected, const std::string& found) {
    throw std::runtime_error(model.where() + ": merges[" + std::to_string(i) + "]: expected " + expected + ", found " +
                             found);
  };
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = merge_parts(merges[i]);
    if (left.empty() || right.empty()) fail(i, "two tokens", describe_json(merges[i]));
    const auto id = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) fail(i, "tokens of the vocabulary", describe_json(nlohmann::json(token)));
      return found->second;
    };
    files.merges.push_back({id(left), id(right), id(left + right)});
  }
}

void read_added_tokens(const JsonFields& file, const Ids& ids, TokenizerFiles& files) {
  if (!file.has("added_tokens")) return;
  const nlohmann::json& list = file.list("added_tokens");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonFields fields(list[i], file.where() + ": added_tokens[" + std::to_string(i) + "]");
    for (const auto* flag : {"single_word", "lstrip", "rstrip"}) expect_flag(fields, flag, false, false);
    // Without a normalizer, "normalized" only says which literals are looked for first.
    const bool normalized = fields.boolean("normalized", false);
    if (i > 0 && normalized != JsonFields(list[0], fields.where()).boolean("normalized", false))
      fields.fail("normalized", "the same value for all added tokens");
    const std::string& content = fields.text("content");
    if (content.empty()) fields.fail("content", "a text that is not empty");
    const auto id = fields.integer("id", 0, kLargestId);
    const auto known = ids.find(content);
    TokenizerFiles::Token& token = slot(files, id);
    if (token.added || (known == ids.end() ? token.exists : known->second != id))
      fields.fail("id", "an id of its own, or that of the same text in the vocabulary");
    if (token.exists && token.bytes != content)
      fields.fail("content", "a text that is no stand-in of other bytes in the vocabulary");
    token = {.bytes = content, .exists = true, .added = true, .special = fields.boolean("special", false)};
  }
}

// "bos_token" and the like: a text or an object with a member "content".
std::optional<std::int32_t> read_named_token(const JsonFields& config, std::string_view key,
                                             const TokenizerFiles& files) {
  if (!config.has(key)) return std::nullopt;
  const std::string& text = config.at(key).is_object() ? config.object(key).text("content") : config.text(key);
  const auto found = std::find_if(files.tokens.begin(), files.tokens.end(),
                                  [&](const auto& token) { return token.added && token.bytes == text; });
  if (found == files.tokens.end()) config.fail(key, "an added token of tokenizer.json");
  return static_cast<std::int32_t>(found - files.tokens.begin());
}

// The second list of the added tokens, by id, must agree with the first.
void check_added_tokens_decoder(const JsonFields& config, const TokenizerFiles& files) {
  if (!config.has("added_tokens_decoder")) return;
  const JsonFields added = config.object("added_tokens_decoder");
  for (const auto& [key, value] : config.at("added_tokens_decoder").items()) {
    std::size_t id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool known = parsed.ec == std::errc() && parsed.ptr == key.data() + key.size() && id < files.tokens.size();
    if (!known || !files.tokens[id].added || files.tokens[id].bytes != added.object(key).text("content"))
      added.fail(key, "the added token that tokenizer.json has under this id");
  }
}

void read_config(const JsonFields& config, TokenizerFiles& files) {
  expect_flag(config, "add_prefix_space", false, false);
  files.bos = read_named_token(config, "bos_token", files);
  files.eos = read_named_token(config, "eos_token", files);
  files.pad = read_named_token(config, "pad_token", files);
  check_added_tokens_decoder(config, files);
}

}  // namespace

TokenizerFiles parse_tokenizer_files(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                                     const std::string& name) {
  TokenizerFiles files;
  files.name = name;
  const auto document = parse_json<nlohmann::json>(tokenizer_json, name);
  const JsonFields file(document, name);
  check_pipeline(file);
  const JsonFields model = file.object("model");
  check_model(model);
  const Ids ids = read_vocabulary(model, files);
  read_merges(model, ids, files);
  read_added_tokens(file, ids, files);
  if (!tokenizer_config_json.empty()) {
    const std::string config_name = std::filesystem::path(name).replace_filename("tokenizer_config.json").string();
    const auto config = parse_json<nlohmann::json>(tokenizer_config_json, config_name);
    read_config(JsonFields(config, config_name), files);
  }
  return files;
}

}  // namespace omni
