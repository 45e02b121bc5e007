#pragma once
// UTF-8 as the Unicode standard defines it (table 3-7), with the replacement of broken parts that it recommends
// (section 3.9, "U+FFFD substitution of maximal subparts"), which is also what Python's errors="replace" does.

#include <cstddef>
#include <string>
#include <string_view>

namespace omni {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind {
  character,   // one well-formed character
  broken,      // a maximal part that no continuation can make well-formed
  incomplete,  // the text ends inside a character that is well-formed so far
};

struct Utf8Part {
  Utf8Kind kind;
  std::size_t length;  // bytes, at least 1
};

// The part of `text` that begins at byte `at` (at < text.size()).
Utf8Part utf8_part(std::string_view text, std::size_t at);

bool is_utf8(std::string_view text);

// Appends `bytes` to `text`, each broken part as U+FFFD, except an incomplete character at the end; returns the length
// of that held-back rest in bytes (0..3).
std::size_t append_utf8(std::string& text, std::string_view bytes);

// `bytes` with each broken part, an incomplete end included, replaced by U+FFFD.
std::string to_utf8(std::string_view bytes);

}  // namespace omni
