#include "engine/safetensors.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/files.h"
#include "tests/engine/weight_samples.h"
#include "tests/support/temporary_folder.h"

using namespace omni;
using Catch::Matchers::Contains;

namespace {

std::string file_of(const std::string& header, const std::string& data = "") {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

// Opens the bytes and touches all that they offer. True if they are a valid file.
bool opens(const std::string& bytes) {
  try {
    const SafetensorsFile file(bytes_of(bytes), "memory");
    std::uint64_t sum = 0;
    for (const std::string& name : file.names()) try {
        const ConstView view = file.at(name);
        for (std::int64_t i = 0; i < view.bytes(); ++i) sum += static_cast<const std::uint8_t*>(view.data)[i];
      } catch (const std::runtime_error&) {
      }
    return sum < UINT64_MAX;
  } catch (const std::runtime_error& error) {
    REQUIRE_THAT(error.what(), Contains("memory"));
    return false;
  }
}

std::string why_not(const std::string& header, const std::string& data = "") {
  try {
    const std::string bytes = file_of(header, data);
    const SafetensorsFile file(bytes_of(bytes), "memory");
    for (const std::string& name : file.names()) file.at(name);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("safetensors keep every dtype and shape") {
  const TemporaryFolder folder;
  const WeightSamples samples;
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "\"quoted\" \n Ünï"}};
  write_safetensors(folder / "a.safetensors", samples.tensors, metadata);
  const SafetensorsFile file(folder / "a.safetensors");
  REQUIRE(file.metadata() == metadata);
  REQUIRE(file.names().size() == samples.tensors.size());
  for (std::size_t i = 0; i < samples.tensors.size(); ++i) {
    const auto& [name, view] = samples.tensors[i];
    CAPTURE(name);
    REQUIRE(file.names()[i] == name);
    REQUIRE(same(file.at(name), view));
    REQUIRE(reinterpret_cast<std::uintptr_t>(file.at(name).data) % size_of(view.dtype) == 0);
  }
  const std::string bytes = read_text_file(folder / "a.safetensors");
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof length);
  REQUIRE(length % 8 == 0);
  REQUIRE(nlohmann::json::parse(bytes.substr(8, length)).size() == samples.tensors.size() + 1);
}

TEST_CASE("safetensors without tensors, and names that need escapes") {
  const TemporaryFolder folder;
  write_safetensors(folder / "empty", {});
  REQUIRE(SafetensorsFile(folder / "empty").names().empty());
  write_safetensors(folder / "notes", {}, {{"a", "b"}});
  REQUIRE(SafetensorsFile(folder / "notes").metadata().at("a") == "b");
  const float value = 1;
  const std::vector<NamedView> odd = {{"a\"\\\n\u00e9", view_of(&value, {1})}};
  write_safetensors(folder / "odd", odd);
  REQUIRE(same(SafetensorsFile(folder / "odd").at(odd[0].name), odd[0].view));

  const std::vector<NamedView> twice = {odd[0], odd[0]};
  REQUIRE_THROWS_WITH(write_safetensors(folder / "x", twice), Contains("two tensors"));
  const std::vector<NamedView> no_text = {{"\xff", odd[0].view}}, reserved = {{"__metadata__", odd[0].view}},
                               no_data = {{"a", ConstView(nullptr, DType::f32, {1})}};
  REQUIRE_THROWS_WITH(write_safetensors(folder / "x", no_text), Contains("UTF-8"));
  REQUIRE_THROWS_WITH(write_safetensors(folder / "x", reserved), Contains("reserved"));
  REQUIRE_THROWS_WITH(write_safetensors(folder / "x", no_data), Contains("no data"));
  REQUIRE(folder.entries() == 3);
}

TEST_CASE("a missing tensor is an error with a near name") {
  const TemporaryFolder folder;
  const float value = 1;
  const std::vector<NamedView> tensors = {{"model.norm.weight", view_of(&value, {1})}, {"x", view_of(&value, {1})}};
  write_safetensors(folder / "a", tensors);
  SafetensorsFile file(folder / "a");
  REQUIRE(!file.contains("model.norm.wieght"));
  REQUIRE_THROWS_WITH(file.at("model.norm.wieght"), Contains((folder / "a").string()) &&
                                                        Contains("model.norm.wieght") && Contains("model.norm.weight"));
  const void* data = file.at("x").data;
  SafetensorsFile moved = std::move(file);
  REQUIRE(moved.at("x").data == data);
}

TEST_CASE("tensors at odd addresses are copied to even ones") {
  const float value = 1.5f;
  const std::string data(reinterpret_cast<const char*>(&value), sizeof value);
  for (std::size_t shift = 0; shift < 4; ++shift) {
    const std::string bytes =
        file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})" + std::string(shift, ' '), data);
    const SafetensorsFile file(bytes_of(bytes), "memory");
    const ConstView view = file.at("a");
    REQUIRE(reinterpret_cast<std::uintptr_t>(view.data) % 4 == 0);
    REQUIRE(*view.as<float>() == value);
    REQUIRE(file.at("a").data == view.data);
  }
}

TEST_CASE("every truncation and every extension of a safetensors file is an error") {
  const TemporaryFolder folder;
  const std::int32_t values[] = {1, 2, 3};
  const std::vector<NamedView> tensors = {{"a", view_of(values, {3})}, {"b", view_of(values, {1, 2})}};
  write_safetensors(folder / "a", tensors, {{"k", "v"}});
  const std::string bytes = read_text_file(folder / "a");
  REQUIRE(opens(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) REQUIRE(!opens(bytes.substr(0, size)));
  REQUIRE(!opens(bytes + "x"));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    opens(flipped);  // an error or a valid file; the sanitizers watch
  }
}

TEST_CASE("safetensors: numbers are converted on the way into the file") {
  const TemporaryFolder folder;
  std::vector<float> values(300'001);  // more than one piece
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 7;
  const std::vector<NamedView> tensors = {{"x", view_of(values.data(), {300'001})},
                                          {"empty", view_of(values.data(), {0})}};
  write_safetensors(folder / "a", tensors, {}, DType::bf16);
  const SafetensorsFile file(folder / "a");
  REQUIRE(file.at("x").dtype == DType::bf16);
  REQUIRE(file.at("x").shape == Shape{300'001});
  REQUIRE(file.at("empty").count() == 0);
  for (std::size_t i = 0; i < values.size(); ++i)
    REQUIRE(to_float(file.at("x").as<bf16>()[i]) == to_float(round_to<bf16>(values[i])));
}

TEST_CASE("hostile safetensors headers are errors that name the place") {
  const auto entry = [](const std::string& rest) { return "{\"a\":{" + rest + "}}"; };
  REQUIRE(why_not(entry(R"("dtype":"I32","shape":[1],"data_offsets":[0,4])"), "1234").empty());
  REQUIRE(why_not("{}  ").empty());
  const std::pair<std::string, std::string> cases[] = {
      {"", "does not begin"},
      {"[]", "does not begin"},
      {"{", "no valid JSON"},
      {"{}x", "no valid JSON"},
      {"{\"a\xff\":1}", "no valid JSON"},
      {"{\"a\":1}", "'a'"},
      {"{\"a\":[]}", "'a'"},
      {"{\"a\":{\"dtype\":{}}}", "'dtype'"},
      {"{\"__metadata__\":{\"a\":1}}", "'a'"},
      {"{\"__metadata__\":{\"a\":{}}}", "'a'"},
      {"{\"__metadata__\":\"a\"}", "__metadata__"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "twice"},
      {entry(""), "'a'"},
      {entry(R"("dtype":"I32","shape":[1])"), "data_offsets"},
      {entry(R"("dtype":"I32","shape":[1],"data_offsets":[0])"), "data_offsets"},
      {entry(R"("dtype":"I32","shape":[1],"data_offsets":[0,4,8])"), "data_offsets"},
      {entry(R"("dtype":"I32","dtype":"I32","shape":[1],"data_offsets":[0,4])"), "twice"},
      {entry(R"("dtype":"I32","shape":[1],"data_offsets":[0,4],"more":1)"), "'more'"},
      {entry(R"("dtype":"I33","shape":[1],"data_offsets":[0,4])"), "'I33'"},
      {entry(R"("dtype":["I32"],"shape":[1],"data_offsets":[0,4])"), "'dtype'"},
      {entry(R"("dtype":"I32","shape":[[1]],"data_offsets":[0,4])"), "'shape'"},
      {entry(R"("dtype":"I32","shape":[-1],"data_offsets":[0,4])"), "negative"},
      {entry(R"("dtype":"I32","shape":[1.0],"data_offsets":[0,4])"), "fraction"},
      {entry(R"("dtype":"I32","shape":[2],"data_offsets":[0,4])"), "needs 8 bytes"},
      {entry(R"("dtype":"I32","shape":[1],"data_offsets":[4,0])"), "[4, 0]"},
      {entry(R"("dtype":"I32","shape":[1],"data_offsets":[0,5])"), "[0, 5]"},
      {entry(R"("dtype":"I32","shape":[0],"data_offsets":[0,0])"), "the file has 4"},
      {entry(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])"), "hole"},
      {entry(R"("dtype":"F4","shape":[7],"data_offsets":[0,4])"), "impossible"},
      {entry(R"("dtype":"I32","shape":[4611686018427387904,4],"data_offsets":[0,4])"), "impossible"},
      {entry(R"("dtype":"I32","shape":[18446744073709551615],"data_offsets":[0,4])"), "large"},
      {entry(R"("dtype":"I32","shape":[99999999999999999999],"data_offsets":[0,4])"), "fraction"},
      {entry(R"("dtype":"I16","shape":[2],"data_offsets":[0,4])"), "I16"},
      {entry(R"("dtype":"I32","shape":[1,1,1,1,1],"data_offsets":[0,4])"), "[1, 1, 1, 1, 1]"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
       "twice"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
       "overlap"},
  };
  for (const auto& [header, expected] : cases) {
    CAPTURE(header);
    REQUIRE_THAT(why_not(header, "1234"), Contains("memory") && Contains(expected));
  }
  REQUIRE(!opens(file_of("{\"a\":" + std::string(100000, '['))));
  REQUIRE(!opens(file_of("{\"a\":" + std::string(100000, '{'))));
  REQUIRE(!opens(std::string(8, '\xff') + "{}"));
}
