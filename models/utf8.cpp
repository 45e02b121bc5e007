#include "models/utf8.h"

namespace omni {

Utf8Part utf8_part(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return {Utf8Kind::character, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Kind::broken, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte is restricted further against overlong forms (E0, F0), surrogates (ED) and beyond U+10FFFF (F4).
  unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (at + i == text.size()) return {Utf8Kind::incomplete, i};
    if (byte(at + i) < low || byte(at + i) > high) return {Utf8Kind::broken, i};
  }
  return {Utf8Kind::character, length};
}

bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Part part = utf8_part(text, at);
    if (part.kind != Utf8Kind::character) return false;
    at += part.length;
  }
  return true;
}

std::size_t append_utf8(std::string& text, std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Part part = utf8_part(bytes, at);
    if (part.kind == Utf8Kind::incomplete) return part.length;
    text += part.kind == Utf8Kind::character ? bytes.substr(at, part.length) : kReplacementCharacter;
    at += part.length;
  }
  return 0;
}

std::string to_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  if (append_utf8(text, bytes) > 0) text += kReplacementCharacter;
  return text;
}

}  // namespace omni
