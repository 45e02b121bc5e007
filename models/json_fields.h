#pragma once
// Reads the members of a JSON object with their types and ranges checked; every error names the file, the field, what
// was expected and what was found.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace omni {

class JsonFields {
 public:
  // `where` opens each error message, for example the path of the file. `object` must outlive the reader. Throws
  // std::runtime_error, as all members do, when `object` is not an object.
  JsonFields(const nlohmann::json& object, std::string where);

  // The member, or null where it is missing; a member that is null counts as missing everywhere.
  const nlohmann::json& at(std::string_view key) const;
  bool has(std::string_view key) const { return !at(key).is_null(); }

  // The member if there is one, else `fallback`; bounds are inclusive.
  std::int64_t integer(std::string_view key, std::int64_t fallback, std::int64_t low, std::int64_t high) const;
  double number(std::string_view key, double fallback, double low, double high) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key, std::string fallback) const;

  // Members that must be there.
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  const std::string& text(std::string_view key) const;
  JsonFields object(std::string_view key) const;
  const nlohmann::json& list(std::string_view key) const;

  // Throws "<where>: <key>: expected <expected>, found <member>".
  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace omni
