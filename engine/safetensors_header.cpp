#include "engine/safetensors_header.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_set>

namespace omni {
namespace {

// Receives the parser's events. The grammar is a fixed one, so the place is known from the depth and the last keys:
//   { "__metadata__": {text: text ...}, name: {"dtype": text, "shape": [..], "data_offsets": [begin, end]} ... }
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (in_array_ || depth_ == 2) fail("expected no object here");
    field_.clear();
    if (++depth_ != 2 || in_metadata_) return true;
    header_.tensors.push_back({.name = entry_, .dtype = {}, .shape = {}});
    seen_fields_ = {};
    offsets_ = 0;
    return true;
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && (!seen_fields_.dtype || !seen_fields_.shape || offsets_ != 2))
      fail("expected the fields dtype, shape and two data_offsets");
    --depth_;
    in_metadata_ = false;
    return true;
  }
  bool key(std::string& text) override {
    if (depth_ == 1) {
      entry_ = text;
      in_metadata_ = text == "__metadata__";
      if (!names_.insert(text).second) fail("the name occurs twice");
    } else {
      field_ = text;
      if (in_metadata_) return true;
      bool* seen = text == "dtype"          ? &seen_fields_.dtype
                   : text == "shape"        ? &seen_fields_.shape
                   : text == "data_offsets" ? &seen_fields_.data_offsets
                                            : nullptr;
      if (seen == nullptr) fail("unknown field");
      if (std::exchange(*seen, true)) fail("the field occurs twice");
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (in_array_ || depth_ != 2 || in_metadata_ || field_ == "dtype") fail("expected no list here");
    in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool string(std::string& text) override {
    if (depth_ == 2 && in_metadata_) {
      if (!header_.metadata.emplace(field_, text).second) fail("the field occurs twice");
    } else if (depth_ == 2 && !in_array_ && field_ == "dtype") {
      header_.tensors.back().dtype = text;
    } else {
      fail("expected no text here");
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) fail("expected no number here");
    SafetensorsHeader::Tensor& tensor = header_.tensors.back();
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) fail("number too large");
    if (field_ == "shape") {
      tensor.shape.push_back(static_cast<std::int64_t>(value));
    } else {
      if (offsets_ == 2) fail("expected two numbers");
      (offsets_++ == 0 ? tensor.begin : tensor.end) = value;
    }
    return true;
  }
  bool number_integer(number_integer_t) override { return fail("expected no negative number"); }
  bool number_float(number_float_t, const std::string&) override { return fail("expected no fraction"); }
  bool boolean(bool) override { return fail("expected no true or false"); }
  bool null() override { return fail("expected no null"); }
  bool binary(nlohmann::json::binary_t&) override { return fail("expected no binary value"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    throw std::runtime_error(file_ + ": header is no valid JSON at byte " + std::to_string(position) + ": " +
                             error.what());
  }

 private:
  [[noreturn]] bool fail(const std::string& problem) const {
    std::string where = file_ + ": header";
    if (depth_ >= 1) where += ", entry '" + entry_ + "'";
    if (depth_ >= 2 && !field_.empty()) where += ", field '" + field_ + "'";
    throw std::runtime_error(where + ": " + problem);
  }

  const std::string& file_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  std::string entry_, field_;  // the last key of depth 1 and 2
  struct {
    bool dtype = false, shape = false, data_offsets = false;
  } seen_fields_;
  int depth_ = 0, offsets_ = 0;
  bool in_metadata_ = false, in_array_ = false;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file) {
  if (json.empty() || json.front() != '{') throw std::runtime_error(file + ": header does not begin with '{'");
  HeaderReader reader(file);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  return reader.take();
}

}  // namespace omni
