// Any bytes as tokenizer.json: an error, or a tokenizer that encodes and decodes without loss.

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "models/utf8.h"

namespace {

std::string seed(bool merges_as_text) {
  nlohmann::json vocab, merges = nlohmann::json::array();
  for (int byte = 0, next = 0x100; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int code = printable ? byte : next++;
    std::string text(1, static_cast<char>(code));
    if (code >= 0x80) text = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    vocab[text] = byte;
  }
  const std::pair<const char*, const char*> pairs[] = {{"a", "b"}, {"ab", "c"}, {"Ġ", "a"}};
  for (const auto& [left, right] : pairs) {
    vocab.emplace(std::string(left) + right, vocab.size());
    if (merges_as_text)
      merges.push_back(std::string(left) + " " + right);
    else
      merges.push_back({left, right});
  }
  const nlohmann::json file = {
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"added_tokens", {{{"id", 259}, {"content", "<s>"}, {"special", true}}, {{"id", 261}, {"content", "<s>x"}}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
  return file.dump();
}

}  // namespace

std::vector<std::string> fuzz_seeds() { return {seed(false), seed(true), "{}", ""}; }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const omni::Tokenizer tokenizer(omni::parse_tokenizer_files(text, "", "tokenizer.json"));
    const std::string_view sample = text.substr(0, 500);
    const auto ids = tokenizer.encode(sample);
    const std::string decoded = tokenizer.decode(ids);
    omni::StreamingDecoder stream(tokenizer);
    std::string streamed;
    for (const auto id : ids) streamed += stream.push(id);
    if (streamed + stream.finish() != decoded) std::abort();
  } catch (const std::runtime_error&) {
  }
  return 0;
}
