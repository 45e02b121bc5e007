#include "trainers/settings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "engine/suggest.h"

namespace omni {
namespace {

constexpr int kDeepest = 20;  // nesting of a recipe; an anchor may refer to itself

template <class T>
bool parse_all(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string describe(const YAML::Node& node) {
  if (node.IsMap()) return "a map";
  if (node.IsSequence()) return "a list";
  return node.IsScalar() ? "'" + node.Scalar() + "'" : "nothing";
}

YAML::Node parse_yaml(const std::string& text, const std::string& name) try {
  return YAML::Load(text);
} catch (const YAML::Exception& error) {
  throw std::runtime_error(name + ":" + std::to_string(error.mark.line + 1) + ": not valid YAML: " + error.msg);
}

nlohmann::ordered_json json_of(const YAML::Node& node, int depth) {
  if (depth > kDeepest) throw std::runtime_error("nested more than " + std::to_string(kDeepest) + " levels deep");
  if (node.IsMap()) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    for (const auto& member : node) {
      if (!member.first.IsScalar()) throw std::runtime_error("a key that is no text");
      object[member.first.Scalar()] = json_of(member.second, depth + 1);
    }
    return object;
  }
  if (node.IsSequence()) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const YAML::Node& element : node) list.push_back(json_of(element, depth + 1));
    return list;
  }
  if (!node.IsScalar()) return nullptr;
  const std::string& text = node.Scalar();
  std::int64_t integer = 0;
  double number = 0;
  if (node.Tag() == "!") return text;  // quoted
  if (text == "true" || text == "false") return text == "true";
  if (text == "null" || text == "~" || text.empty()) return nullptr;
  if (parse_all(text, integer)) return integer;
  if (parse_all(text, number) && std::isfinite(number)) return number;
  return text;
}

}  // namespace

nlohmann::ordered_json json_of(const YAML::Node& node) { return json_of(node, 0); }

Settings::Settings(const std::string& yaml, std::string name, const std::vector<std::string>& overrides,
                   const std::vector<std::string>& known)
    : name_(std::move(name)) {
  const YAML::Node root = parse_yaml(yaml, name_);
  if (!root.IsMap() && !root.IsNull())
    throw std::runtime_error(name_ + ": expected a map of settings, found " + describe(root));
  for (const auto& member : root) {
    const std::string place = name_ + ":" + std::to_string(member.first.Mark().line + 1);
    if (!member.first.IsScalar()) throw std::runtime_error(place + ": expected a key, found " + describe(member.first));
    const std::string key = member.first.Scalar();
    if (const Entry* earlier = find(key))
      throw std::runtime_error(place + ": " + key + ": already set at " + earlier->place);
    entries_.push_back({key, member.second, place});
  }
  for (const std::string& assignment : overrides) override_with(assignment);
  for (const Entry& entry : entries_)
    if (std::find(known.begin(), known.end(), entry.key) == known.end())
      throw std::runtime_error(entry.place + ": unknown key '" + entry.key + "'" + did_you_mean(entry.key, known));
}

void Settings::override_with(const std::string& assignment) {
  const std::string place = "command line";
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw std::runtime_error(place + ": expected key=value, found '" + assignment + "'");
  const std::string path = assignment.substr(0, equals);
  const YAML::Node value = parse_yaml(assignment.substr(equals + 1), place + ": " + path);
  const std::size_t dot = path.find('.');
  const std::string key = path.substr(0, dot);
  auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& known) { return known.key == key; });
  if (entry == entries_.end()) entry = entries_.insert(entry, {key, YAML::Node(), place});
  entry->place = place;
  if (dot == std::string::npos) {
    entry->value.reset(value);
    return;
  }
  if (entry->value.IsDefined() && !entry->value.IsMap() && !entry->value.IsNull())
    throw std::runtime_error(place + ": " + path + ": " + key + " is no map but " + describe(entry->value));
  entry->value[path.substr(dot + 1)] = value;
}

const Settings::Entry* Settings::find(std::string_view key) const {
  for (const Entry& entry : entries_)
    if (entry.key == key) return &entry;
  return nullptr;
}

const Settings::Entry* Settings::given(std::string_view key) const {
  const Entry* entry = find(key);
  return entry == nullptr || !entry->value.IsDefined() || entry->value.IsNull() ? nullptr : entry;
}

std::string Settings::place(std::string_view key) const {
  const Entry* entry = find(key);
  return entry == nullptr ? name_ : entry->place;
}

void Settings::fail(std::string_view key, const std::string& message) const {
  const Entry* entry = find(key);
  throw std::runtime_error(entry == nullptr ? name_ + ": " + message
                                            : entry->place + ": " + std::string(key) + ": " + message);
}

std::string Settings::scalar(const Entry& entry, const std::string& expected) const {
  if (!entry.value.IsScalar()) fail(entry.key, "expected " + expected + ", found " + describe(entry.value));
  return entry.value.Scalar();
}

bool Settings::has(std::string_view key) const { return given(key) != nullptr; }

bool Settings::is_map(std::string_view key) const {
  const Entry* entry = given(key);
  return entry != nullptr && entry->value.IsMap();
}

std::string Settings::text(std::string_view key, std::string fallback) const {
  const Entry* entry = given(key);
  return entry == nullptr ? fallback : scalar(*entry, "a text");
}

std::string Settings::choice(std::string_view key, const std::vector<std::string>& choices,
                             std::string fallback) const {
  const std::string value = text(key, std::move(fallback));
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return value;
  std::string expected;
  for (const std::string& one : choices) expected += (expected.empty() ? "" : " or ") + one;
  fail(key, "expected " + expected + ", found '" + value + "'" + did_you_mean(value, choices));
}

std::int64_t Settings::integer(std::string_view key, std::int64_t fallback, std::int64_t low, std::int64_t high) const {
  const Entry* entry = given(key);
  if (entry == nullptr) return fallback;
  const std::string expected = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  const std::string text = scalar(*entry, expected);
  std::int64_t value = 0;
  if (!parse_all(text, value) || value < low || value > high)
    fail(key, "expected " + expected + ", found '" + text + "'");
  return value;
}

double Settings::number(std::string_view key, double fallback, double low, double high) const {
  const Entry* entry = given(key);
  if (entry == nullptr) return fallback;
  char range[80];
  std::snprintf(range, sizeof range, "a number from %g to %g", low, high);
  const std::string text = scalar(*entry, range);
  double value = 0;
  if (!parse_all(text, value) || !(value >= low && value <= high))
    fail(key, std::string("expected ") + range + ", found '" + text + "'");
  return value;
}

bool Settings::boolean(std::string_view key, bool fallback) const {
  const Entry* entry = given(key);
  if (entry == nullptr) return fallback;
  const std::string text = scalar(*entry, "true or false");
  if (text != "true" && text != "false") fail(key, "expected true or false, found '" + text + "'");
  return text == "true";
}

std::vector<std::string> Settings::texts(std::string_view key) const {
  const Entry* entry = given(key);
  if (entry == nullptr) return {};
  if (entry->value.IsScalar()) return {entry->value.Scalar()};
  std::vector<std::string> out;
  if (!entry->value.IsSequence()) fail(key, "expected a text or a list of texts, found " + describe(entry->value));
  for (const YAML::Node& element : entry->value) {
    if (!element.IsScalar()) fail(key, "expected a list of texts, found " + describe(element) + " in it");
    out.push_back(element.Scalar());
  }
  return out;
}

nlohmann::ordered_json Settings::json(std::string_view key) const try {
  const Entry* entry = given(key);
  return entry == nullptr ? nlohmann::ordered_json() : json_of(entry->value);
} catch (const std::runtime_error& error) {
  fail(key, error.what());
}

}  // namespace omni
