#pragma once
// Reads a flat YAML map, with overrides from the command line, key by key and type-checked.

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

// Every error is a std::runtime_error "<file>:<line>: <key>: expected ..., found ...". A key whose value is empty
// counts as missing.
class Settings {
 public:
  // `name` is the file's path, for messages. An override is "key=value" with a YAML value, or "key.inner=value", which
  // changes one member of the map that stands under `key`. A key that is not among `known` is an error that suggests
  // the nearest one.
  Settings(const std::string& yaml, std::string name, const std::vector<std::string>& overrides,
           const std::vector<std::string>& known);

  bool has(std::string_view key) const;
  // The value, or `fallback` where the key is missing. Bounds are inclusive.
  std::string text(std::string_view key, std::string fallback) const;
  std::string choice(std::string_view key, const std::vector<std::string>& choices, std::string fallback) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback, std::int64_t low, std::int64_t high) const;
  double number(std::string_view key, double fallback, double low, double high) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::vector<std::string> texts(std::string_view key) const;  // one text or a list of texts
  bool is_map(std::string_view key) const;
  nlohmann::ordered_json json(std::string_view key) const;  // any value

  // Throws "<place of key>: <key>: <message>", or "<file>: <message>" where the key is missing.
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;
  // Where a key was written: "recipe.yaml:7", or "command line".
  std::string place(std::string_view key) const;

 private:
  struct Entry {
    std::string key;
    YAML::Node value;
    std::string place;
  };
  void override_with(const std::string& assignment);
  const Entry* find(std::string_view key) const;
  const Entry* given(std::string_view key) const;
  std::string scalar(const Entry& entry, const std::string& expected) const;

  std::string name_;
  std::vector<Entry> entries_;
};

// A YAML value as JSON: unquoted scalars become null, booleans, integers or numbers where they read as such.
nlohmann::ordered_json json_of(const YAML::Node& node);

}  // namespace omni
