#include "models/json_text.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <system_error>

namespace omni {
namespace {

std::string escape_control(unsigned char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  return std::string("\\u00") + kHex[c >> 4] + kHex[c & 15];
}

void write_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += escape_control(static_cast<unsigned char>(c));
        else
          out += c;
    }
  }
  out += '"';
}

void write_value(std::string& out, const nlohmann::ordered_json& value) {
  const char* separator = "";
  if (value.is_object()) {
    out += '{';
    for (const auto& [key, member] : value.items()) {
      out += separator;
      write_string(out, key);
      out += ": ";
      write_value(out, member);
      separator = ", ";
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (const auto& element : value) {
      out += separator;
      write_value(out, element);
      separator = ", ";
    }
    out += ']';
  } else if (value.is_string()) {
    write_string(out, value.get_ref<const std::string&>());
  } else if (value.is_number_float()) {
    out += python_float(value.get<double>());
  } else {
    out += value.dump();  // null, true, false and integers are written alike
  }
}

template <class Json>
std::string describe(const Json& value) {
  constexpr std::size_t kLongest = 60;
  if (value.is_array()) return "a list of " + std::to_string(value.size());
  if (value.is_object()) return "an object of " + std::to_string(value.size()) + " members";
  if (value.is_string() && value.template get_ref<const std::string&>().size() > kLongest)
    return "a text of " + std::to_string(value.template get_ref<const std::string&>().size()) + " bytes";
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

template <class Json>
Json parse_json(std::string_view text, const std::string& name) {
  const auto limit_depth = [&](int depth, typename Json::parse_event_t event, Json&) {
    const bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kDeepestJson)
      throw std::runtime_error(name + ": expected JSON nested at most " + std::to_string(kDeepestJson) + " deep");
    return true;
  };
  try {
    return Json::parse(text, limit_depth);
  } catch (const typename Json::exception& error) {
    const std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line ..."
    const auto start = what.find("] ");
    throw std::runtime_error(name +
                             ": not valid JSON: " + std::string(start == what.npos ? what : what.substr(start + 2)));
  }
}

template nlohmann::json parse_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&);

std::string dump_python_json(const nlohmann::ordered_json& value) {
  std::string out;
  write_value(out, value);
  return out;
}

std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  char buffer[48];
  const auto print = [&](std::chars_format format) {
    return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr);
  };
  const std::string scientific = print(std::chars_format::scientific);
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  const std::string fixed = print(std::chars_format::fixed);
  return fixed.find('.') == fixed.npos ? fixed + ".0" : fixed;
}

std::string describe_json(const nlohmann::ordered_json& value) { return describe(value); }
std::string describe_json(const nlohmann::json& value) { return describe(value); }

}  // namespace omni
