#include "models/json_fields.h"

#include <stdexcept>
#include <utility>

#include "models/json_text.h"

namespace omni {

JsonFields::JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw std::runtime_error(where_ + ": expected an object, found " + describe_json(object));
}

const nlohmann::json& JsonFields::at(std::string_view key) const {
  static const nlohmann::json missing;
  const auto found = object_.find(key);
  return found == object_.end() ? missing : *found;
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t fallback, std::int64_t low,
                                 std::int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const nlohmann::json& value = at(key);
  const bool too_large = value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX;
  if (!value.is_number_integer() || too_large || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    fail(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
  return value.get<std::int64_t>();
}

double JsonFields::number(std::string_view key, double fallback, double low, double high) const {
  const nlohmann::json& value = at(key);
  if (value.is_null()) return fallback;
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high))
    fail(key, "a number from " + python_float(low) + " to " + python_float(high));
  return value.get<double>();
}

bool JsonFields::boolean(std::string_view key, bool fallback) const {
  const nlohmann::json& value = at(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) fail(key, "true or false");
  return value.get<bool>();
}

std::string JsonFields::text(std::string_view key, std::string fallback) const {
  return has(key) ? text(key) : std::move(fallback);
}

const std::string& JsonFields::text(std::string_view key) const {
  if (!at(key).is_string()) fail(key, "a text");
  return at(key).get_ref<const std::string&>();
}

JsonFields JsonFields::object(std::string_view key) const {
  if (!at(key).is_object()) fail(key, "an object");
  return JsonFields(at(key), where_ + ": " + std::string(key));
}

const nlohmann::json& JsonFields::list(std::string_view key) const {
  if (!at(key).is_array()) fail(key, "a list");
  return at(key);
}

void JsonFields::fail(std::string_view key, const std::string& expected) const {
  const nlohmann::json& value = at(key);
  throw std::runtime_error(where_ + ": " + std::string(key) + ": expected " + expected + ", found " +
                           (object_.contains(key) ? describe_json(value) : "nothing"));
}

}  // namespace omni
