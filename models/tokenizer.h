#pragma once
// Byte-level BPE with added tokens, read from the files of a Hugging Face model directory.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/bpe.h"
#include "models/pre_tokenizer.h"

namespace omni {

// What tokenizer.json and tokenizer_config.json say, checked and with stand-in characters turned into bytes.
struct TokenizerFiles {
  struct Token {
    std::string bytes;
    bool exists = false;   // an id between others may be unused
    bool added = false;    // found literally in the text, before anything else
    bool special = false;  // dropped by decode(..., skip_special)
  };
  std::string name;           // opens error messages
  std::vector<Token> tokens;  // by id
  std::array<std::int32_t, 256> byte_ids;
  std::vector<Merge> merges;
  std::optional<std::int32_t> bos, eos, pad;
};

// Reads the text of the two files; the second may be empty (no bos, eos and pad then). What the format allows and this
// tokenizer does not do (a normalizer, another pre-tokenizer, dropout, lstrip, ...) is an error that names the field.
// Throws std::runtime_error.
TokenizerFiles parse_tokenizer_files(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                                     const std::string& name);

// Texts <-> token ids. All const members may be called from several threads at once.
class Tokenizer {
 public:
  // Reads `directory`/tokenizer.json and, where it exists, tokenizer_config.json. Throws std::runtime_error.
  static Tokenizer load(const std::filesystem::path& directory);

  explicit Tokenizer(TokenizerFiles files);

  // The tokens of exactly this text, nothing added: literals of added tokens (the leftmost, of equals the longest)
  // become their ids, the rest is pre-tokenized and merged. Each maximal part that is not valid UTF-8 is read as
  // U+FFFD.
  std::vector<std::int32_t> encode(std::string_view text) const;

  // The bytes of all tokens as UTF-8, each maximal invalid part as U+FFFD. Throws std::runtime_error for an unknown id.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  // The bytes of one token, which may be part of a character. Throws std::runtime_error for an unknown id.
  std::string_view token_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const { return token(id).special; }

  // The id of the token with exactly these bytes, an added one first.
  std::optional<std::int32_t> token_id(std::string_view literal) const;

  // Largest id + 1, the number of rows that an embedding needs.
  std::int32_t vocab_size() const { return static_cast<std::int32_t>(files_.tokens.size()); }

  // Throw std::runtime_error where tokenizer_config.json names no such token.
  std::int32_t bos_id() const { return named(files_.bos, "bos_token"); }
  std::int32_t eos_id() const { return named(files_.eos, "eos_token"); }
  std::int32_t pad_id() const { return named(files_.pad, "pad_token"); }

 private:
  struct Literal {
    std::string_view text;
    std::int32_t id;
  };
  const TokenizerFiles::Token& token(std::int32_t id) const;
  std::int32_t named(std::optional<std::int32_t> id, const char* field) const;
  const Literal* literal_at(std::string_view text, std::size_t at) const;
  void encode_plain(std::string_view text, std::vector<std::string_view>& pieces, std::vector<std::int32_t>& ids) const;

  TokenizerFiles files_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  std::array<std::vector<Literal>, 256> literals_;  // of the added tokens, by first byte, longest first
  std::unordered_map<std::string_view, std::int32_t> ids_;
};

// Decodes a reply while it grows: the texts returned, put together, are Tokenizer::decode of all ids.
class StreamingDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // Takes the next token, returns the text that became complete; a character whose last bytes are still to come is held
  // back. Throws std::runtime_error for an unknown id.
  std::string push(std::int32_t id);

  // Ends the text: what was held back comes out as U+FFFD. The decoder is then ready for another text.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string held_back_;  // the first bytes of a character
};

}  // namespace omni
