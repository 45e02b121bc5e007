#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/pre_tokenizer.h"

#include <pcre2.h>

#include <stdexcept>
#include <string>

namespace omni {
namespace {

std::string pattern() {
  // PCRE2's own \s counts U+180E as a blank, which Unicode has not done since version 6.3: White_Space is spelled out.
  const std::string blank = R"(\t-\r\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
  // Possessive quantifiers (++) match the same texts here and spare the record of positions to go back to.
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\p{L}\p{N})" + blank + "]++|[" + blank + "]+(?![^" + blank +
         "])|[" + blank + "]++";
}

std::string message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

void PreTokenizer::FreeCode::operator()(void* code) const { pcre2_code_free(static_cast<pcre2_code*>(code)); }

PreTokenizer::PreTokenizer() {
  const std::string text = pattern();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
  if (code == nullptr)
    throw std::runtime_error("pre-tokenizer pattern, byte " + std::to_string(offset) + ": " + message(error));
  code_.reset(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it fails, matching interprets the pattern
}

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(pcre2_match_data_create(1, nullptr),
                                                                             pcre2_match_data_free);
  if (!match) throw std::bad_alloc();
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
  for (std::size_t at = 0; at < text.size(); at = ends[1]) {
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK,
                                  match.get(), nullptr);
    if (found < 0) throw std::runtime_error("pre-tokenizer, byte " + std::to_string(at) + ": " + message(found));
    pieces.push_back(text.substr(at, ends[1] - at));
  }
}

}  // namespace omni
