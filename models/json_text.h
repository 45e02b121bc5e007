#pragma once
// JSON in and out: parsing with limits and errors that name the source, and writing as Python's json.dumps does.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace omni {

// Deepest nesting of lists and objects that parse_json accepts: no reader of the value can overflow the stack.
inline constexpr int kDeepestJson = 100;

// Parses one JSON value. Json is nlohmann::json (keys sorted, fast look-up) or nlohmann::ordered_json (keys as given).
// Of equal keys the last value counts. Throws std::runtime_error "<name>: not valid JSON: ...".
template <class Json>
Json parse_json(std::string_view text, const std::string& name);

// Writes the value as json.dumps(value, ensure_ascii=False): separators ", " and ": ", keys in order, numbers as Python
// prints them. Bytes of strings that are not valid UTF-8 are passed through.
std::string dump_python_json(const nlohmann::ordered_json& value);

// A number as Python's repr: the shortest digits that read back the same, fixed from 1e-4 up to below 1e16.
std::string python_float(double value);

// What a value is, short enough for an error message: the value itself if it is small, else its kind and size.
std::string describe_json(const nlohmann::ordered_json& value);
std::string describe_json(const nlohmann::json& value);

}  // namespace omni
