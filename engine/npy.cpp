#include "engine/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string_view>

namespace omni {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";

struct TypeInfo {
  NpyType type;
  const char* name;
  std::string_view code;  // without the byte order
  std::size_t bytes;
};
constexpr std::array<TypeInfo, 9> kTypes = {{{NpyType::i8, "int8", "i1", 1},
                                             {NpyType::i16, "int16", "i2", 2},
                                             {NpyType::i32, "int32", "i4", 4},
                                             {NpyType::i64, "int64", "i8", 8},
                                             {NpyType::u8, "uint8", "u1", 1},
                                             {NpyType::u16, "uint16", "u2", 2},
                                             {NpyType::f16, "float16", "f2", 2},
                                             {NpyType::f32, "float32", "f4", 4},
                                             {NpyType::f64, "float64", "f8", 8}}};

const TypeInfo& info(NpyType type) { return kTypes[static_cast<std::size_t>(type)]; }

// What stands in the file, short and printable.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 40)) out += c >= ' ' && c <= '~' ? c : '?';
  return out + (text.size() > 40 ? "...'" : "'");
}

// The dictionary: {'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }. A subset of Python's literals: texts
// without escapes, the two truth values, decimal numbers and tuples of them.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  void parse() {
    take('{');
    while (!accept('}')) {
      const std::string_view key = string();
      take(':');
      if (key == "descr")
        set(type_text, key, string());
      else if (key == "fortran_order")
        set(fortran, key, boolean());
      else if (key == "shape")
        set(shape, key, tuple());
      else
        fail("the keys 'descr', 'fortran_order' and 'shape'", quoted(key));
      if (accept('}')) break;
      take(',');
    }
    if (!rest().empty()) fail("nothing behind the dictionary", quoted(rest()));
    for (const auto& [key, there] : {std::pair("'descr'", type_text.has_value()),
                                     {"'shape'", shape.has_value()},
                                     {"'fortran_order'", fortran.has_value()}})
      if (!there) fail(std::string("the key ") + key, "no such key");
  }

  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw std::runtime_error(name_ + ": .npy header: expected " + expected + ", found " + found);
  }

  std::optional<std::string_view> type_text;
  std::optional<bool> fortran;
  std::optional<std::vector<std::int64_t>> shape;

 private:
  template <class T, class V>
  void set(std::optional<T>& place, std::string_view key, V&& value) {
    if (place) fail("the key " + quoted(key) + " once", "it twice");
    place = std::forward<V>(value);
  }

  std::string_view rest() {
    const std::size_t next = text_.find_first_not_of(" \t\r\n", at_);
    at_ = next == std::string_view::npos ? text_.size() : next;
    return text_.substr(at_);
  }
  std::string found() { return rest().empty() ? "its end" : quoted(rest()); }

  bool accept(char c) {
    if (!rest().starts_with(c)) return false;
    ++at_;
    return true;
  }
  void take(char c) {
    if (!accept(c)) fail(quoted(std::string_view(&c, 1)), found());
  }

  std::string_view string() {
    const std::string_view text = rest();
    const std::size_t end =
        text.empty() || (text[0] != '\'' && text[0] != '"') ? std::string_view::npos : text.find_first_of("'\"\\\n", 1);
    if (end == std::string_view::npos || text[end] != text[0]) fail("a text in quotes", found());
    at_ += end + 1;
    return text.substr(1, end - 1);
  }

  bool boolean() {
    const std::string_view text = rest();
    const bool value = text.starts_with("True");
    if (!value && !text.starts_with("False")) fail("True or False", found());
    at_ += value ? 4 : 5;
    return value;
  }

  std::int64_t number() {
    std::int64_t value = 0;
    const std::string_view text = rest();
    std::size_t digits = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits)
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text[digits] - '0', &value))
        fail("a number of at most 63 bits", found());
    if (digits == 0) fail("a number", found());
    at_ += digits;
    return value;
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> out;
    take('(');
    bool comma = true;
    while (!accept(')')) {
      if (!comma) fail("',' or ')'", found());
      if (out.size() == Shape::kMaxRank) fail("a shape of at most 4 dimensions", "more of them");
      out.push_back(number());
      comma = accept(',');
    }
    if (out.size() == 1 && !comma) fail("a tuple, with a comma behind its only number", "a number in brackets");
    return out;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t at_ = 0;
};

// "<i8" -> int64. One byte has no order: NumPy writes "|i1".
const TypeInfo& type_of(std::string_view descr, const HeaderParser& header) {
  if (descr.size() == 3)
    for (const TypeInfo& type : kTypes)
      if (descr.substr(1) == type.code && (descr[0] == '<' || (descr[0] == '|' && type.bytes == 1))) return type;
  header.fail("a little-endian dtype: int8, 16, 32, 64, uint8, 16 or float16, 32, 64 ('<i8' and the like)",
              quoted(descr));
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The header's text; `at` becomes the place of the first value.
std::string_view header_text(std::string_view file, const std::string& name, std::size_t& at) {
  if (!file.starts_with(kMagic))
    throw std::runtime_error(
        name + ": expected a .npy file, which begins with \\x93NUMPY, found " +
        (file.size() < kMagic.size() ? std::to_string(file.size()) + " bytes" : quoted(file.substr(0, kMagic.size()))));
  if (file.size() < 8) throw std::runtime_error(name + ": .npy: the file is cut off in its version");
  const int major = static_cast<unsigned char>(file[6]), minor = static_cast<unsigned char>(file[7]);
  if (major < 1 || major > 3 || minor != 0)
    throw std::runtime_error(name + ": .npy: expected version 1.0, 2.0 or 3.0, found " + std::to_string(major) + "." +
                             std::to_string(minor));
  const std::size_t width = major == 1 ? 2 : 4;
  if (file.size() < 8 + width) throw std::runtime_error(name + ": .npy: the file is cut off in its header's length");
  std::size_t length = 0;
  for (std::size_t i = 0; i < width; ++i) length |= std::size_t{static_cast<unsigned char>(file[8 + i])} << 8 * i;
  at = 8 + width;
  if (length > file.size() - at)
    throw std::runtime_error(name + ": .npy: expected a header of " + std::to_string(length) + " bytes, found " +
                             std::to_string(file.size() - at) + " to the file's end");
  at += length;
  return file.substr(8 + width, length);
}

template <class T>
T value_at(std::span<const std::byte> data, std::size_t i) {
  T value;
  std::memcpy(&value, &data[i * sizeof(T)], sizeof(T));
  return value;
}

template <class From, class To>
std::vector<To> converted(std::span<const std::byte> data) {
  std::vector<To> out(data.size() / sizeof(From));
  for (std::size_t i = 0; i < out.size(); ++i) {
    if constexpr (std::is_same_v<To, float>)
      out[i] = round_to<float>(to_float(value_at<From>(data, i)));
    else
      out[i] = static_cast<To>(value_at<From>(data, i));
  }
  return out;
}

[[noreturn]] void wrong_kind(const Npy& array, const char* expected) {
  throw std::runtime_error(array.name + ": expected " + expected + ", found " + name_of(array.type));
}

template <class T>
std::string file_of(std::span<const T> values, const Shape& shape, const char* descr) {
  if (static_cast<std::int64_t>(values.size()) != shape.count())
    throw std::logic_error("npy_file: " + std::to_string(values.size()) + " values of shape " + shape.text());
  std::string header = std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (";
  for (int i = 0; i < shape.rank(); ++i)
    header += std::to_string(shape[i]) + (i + 1 < shape.rank() ? ", " : shape.rank() == 1 ? "," : "");
  header += "), }";
  // Blanks up to a multiple of 64 with the ten bytes before, so that the values are aligned in a mapped file.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string out(kMagic);
  out += {'\1', '\0', static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  out += header;
  return out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

}  // namespace

const char* name_of(NpyType type) { return info(type).name; }

Npy parse_npy(std::span<const std::byte> bytes, const std::string& name) {
  std::size_t begin = 0;
  HeaderParser header(header_text(text_of(bytes), name, begin), name);
  header.parse();
  const TypeInfo& type = type_of(*header.type_text, header);
  if (*header.fortran) header.fail("'fortran_order': False", "True");
  const Shape shape{std::span<const std::int64_t>(*header.shape)};
  // Zeros count as one here, so that no partial product can overflow either.
  std::int64_t size = static_cast<std::int64_t>(type.bytes);
  for (const std::int64_t dimension : *header.shape)
    if (__builtin_mul_overflow(size, std::max<std::int64_t>(dimension, 1), &size))
      header.fail("a shape of at most 2^63 bytes", shape.text());
  const std::int64_t expected = shape.count() * static_cast<std::int64_t>(type.bytes);
  if (static_cast<std::uint64_t>(expected) != bytes.size() - begin)
    throw std::runtime_error(name + ": .npy: expected " + std::to_string(expected) + " bytes of " + type.name + " " +
                             shape.text() + ", found " + std::to_string(bytes.size() - begin));
  return {type.type, shape, bytes.subspan(begin), name};
}

std::vector<std::int64_t> Npy::integers() const {
  switch (type) {
    case NpyType::i8:
      return converted<std::int8_t, std::int64_t>(data);
    case NpyType::i16:
      return converted<std::int16_t, std::int64_t>(data);
    case NpyType::i32:
      return converted<std::int32_t, std::int64_t>(data);
    case NpyType::i64:
      return converted<std::int64_t, std::int64_t>(data);
    case NpyType::u8:
      return converted<std::uint8_t, std::int64_t>(data);
    case NpyType::u16:
      return converted<std::uint16_t, std::int64_t>(data);
    default:
      wrong_kind(*this, "integers");
  }
}

std::vector<float> Npy::floats() const {
  switch (type) {
    case NpyType::f16:
      return converted<f16, float>(data);
    case NpyType::f32:
      return converted<float, float>(data);
    case NpyType::f64:
      return converted<double, float>(data);
    default:
      wrong_kind(*this, "floats");
  }
}

std::string npy_file(std::span<const std::int64_t> values, const Shape& shape) { return file_of(values, shape, "<i8"); }
std::string npy_file(std::span<const float> values, const Shape& shape) { return file_of(values, shape, "<f4"); }

}  // namespace omni
