#include "models/tokenizer.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/files.h"
#include "models/utf8.h"

namespace omni {

// string_views into files_.tokens stay valid when a Tokenizer is moved: a moved vector keeps its elements.
Tokenizer::Tokenizer(TokenizerFiles files) : files_(std::move(files)), bpe_(files_.byte_ids, files_.merges) {
  for (const bool added : {true, false}) {
    for (std::size_t i = 0; i < files_.tokens.size(); ++i) {
      const TokenizerFiles::Token& token = files_.tokens[i];
      const auto id = static_cast<std::int32_t>(i);
      if (!token.exists || token.added != added) continue;
      ids_.emplace(token.bytes, id);
      if (added) literals_[static_cast<unsigned char>(token.bytes[0])].push_back({token.bytes, id});
    }
  }
  for (auto& literals : literals_)
    std::stable_sort(literals.begin(), literals.end(),
                     [](const Literal& a, const Literal& b) { return a.text.size() > b.text.size(); });
}

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  constexpr std::size_t kLargestFile = std::size_t{256} << 20;
  const std::filesystem::path tokenizer = directory / "tokenizer.json", config = directory / "tokenizer_config.json";
  return Tokenizer(parse_tokenizer_files(read_text_file(tokenizer, kLargestFile),
                                         std::filesystem::exists(config) ? read_text_file(config, kLargestFile) : "",
                                         tokenizer.string()));
}

const TokenizerFiles::Token& Tokenizer::token(std::int32_t id) const {
  if (id < 0 || id >= vocab_size() || !files_.tokens[static_cast<std::size_t>(id)].exists)
    throw std::runtime_error(files_.name + ": expected a token id from 0 to " + std::to_string(vocab_size() - 1) +
                             ", found " + std::to_string(id));
  return files_.tokens[static_cast<std::size_t>(id)];
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const { return token(id).bytes; }

std::optional<std::int32_t> Tokenizer::token_id(std::string_view literal) const {
  const auto found = ids_.find(literal);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::int32_t Tokenizer::named(std::optional<std::int32_t> id, const char* field) const {
  if (!id)
    throw std::runtime_error(files_.name + ": " + field + ": expected a token in tokenizer_config.json, found nothing");
  return *id;
}

const Tokenizer::Literal* Tokenizer::literal_at(std::string_view text, std::size_t at) const {
  for (const Literal& literal : literals_[static_cast<unsigned char>(text[at])])
    if (text.substr(at).starts_with(literal.text)) return &literal;
  return nullptr;
}

void Tokenizer::encode_plain(std::string_view text, std::vector<std::string_view>& pieces,
                             std::vector<std::int32_t>& ids) const {
  pieces.clear();
  pre_tokenizer_.split(text, pieces);
  for (const std::string_view piece : pieces) bpe_.encode(piece, ids);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::string repaired;
  if (!is_utf8(text)) text = repaired = to_utf8(text);
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  std::vector<std::string_view> pieces;
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (const Literal* literal = literal_at(text, at)) {
      encode_plain(text.substr(start, at - start), pieces, ids);
      ids.push_back(literal->id);
      start = at += literal->text.size();
    } else {
      ++at;
    }
  }
  encode_plain(text.substr(start), pieces, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const TokenizerFiles::Token& one = token(id);
    if (!skip_special || !one.special) bytes += one.bytes;
  }
  return to_utf8(bytes);
}

std::string StreamingDecoder::push(std::int32_t id) {
  const std::string_view bytes = tokenizer_.token_bytes(id);
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  held_back_ += bytes;
  std::string text;
  const std::size_t rest = append_utf8(text, held_back_);
  held_back_.erase(0, held_back_.size() - rest);
  return text;
}

std::string StreamingDecoder::finish() { return to_utf8(std::exchange(held_back_, {})); }

}  // namespace omni
