#include "models/trace_page.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <set>

#include "engine/files.h"
#include "models/source_index.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kLikeliest = 5;

// A number with as many digits as a reader needs; null if it is infinite or NaN.
Json number(double value) {
  if (!std::isfinite(value)) return nullptr;
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value);
  const double rounded = std::strtod(text, nullptr);
  if (rounded == std::trunc(rounded) && std::abs(rounded) < 1e15) return static_cast<std::int64_t>(rounded);
  return rounded;
}

std::string base64(const std::vector<std::uint8_t>& bytes) {
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) word = word << 8 | (k < count ? bytes[i + k] : 0);
    for (std::size_t k = 0; k < 4; ++k) out += k <= count ? kDigits[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

Json shape_json(const Shape& shape) {
  Json out = Json::array();
  for (int i = 0; i < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

Json picture_json(const Picture& picture) {
  Json out = {{"rows", picture.rows},
              {"columns", picture.columns},
              {"height", picture.height},
              {"width", picture.width},
              {"cells", base64(picture.cells)},
              {"scale", number(picture.scale)},
              {"min", number(picture.smallest)},
              {"max", number(picture.largest)},
              {"mean", number(picture.mean)},
              {"rms", number(picture.root_mean_square)}};
  if (picture.not_finite > 0) out["not_finite"] = picture.not_finite;
  if (!picture.values.empty()) {
    Json& values = out["values"] = Json::array();
    for (const double value : picture.values) values.push_back(number(value));
  }
  return out;
}

// What is absent or false is left out.
Json operand_json(const Recording::Value& value) {
  Json out = {{"name", value.name},
              {"dtype", name_of(value.dtype)},
              {"shape", shape_json(value.shape)},
              {"picture", value.picture}};
  if (value.written) out["written"] = true;
  if (!value.parameter.empty()) out["parameter"] = value.parameter;
  if (value.gradient) out["gradient"] = true;
  if (value.writer != Recording::kNone) out["writer"] = value.writer;
  return out;
}

Json instruction_json(const Recording::Instruction& instruction) {
  Json out = {{"name", instruction.name},
              {"backward", instruction.backward},
              {"op", instruction.op},
              {"seconds", number(instruction.seconds)},
              {"bytes", instruction.work.bytes},
              {"flops", instruction.work.flops},
              {"unit", name_of(instruction.work.unit)},
              {"operands", Json::array()}};
  for (const Recording::Value& value : instruction.operands) out["operands"].push_back(operand_json(value));
  return out;
}

Json op_json(const Recording::Op& op) {
  Json out = {{"function", op.function}, {"section", op.section}, {"module", op.module}};
  if (op.line > 0) out["source"] = {op.file, op.line};
  return out;
}

Json result_json(const Recording::Named& result) {
  Json out = {{"name", result.name}, {"shape", shape_json(result.shape)}, {"picture", result.picture}};
  if (result.writer != Recording::kNone) out["writer"] = result.writer;
  return out;
}

std::string token_text(const Tokenizer* tokenizer, std::int64_t id) {
  if (tokenizer == nullptr || id < 0 || id >= tokenizer->vocab_size()) return {};
  return std::string(tokenizer->token_bytes(static_cast<std::int32_t>(id)));
}

// The likeliest next tokens of each position, with their probabilities.
Json predictions(const Tokenizer* tokenizer, const ConstView& logits) {
  Json out = Json::array();
  const std::int64_t classes = logits.width(), kept = std::min(kLikeliest, classes);
  std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
  for (std::int64_t r = 0; r < logits.rows(); ++r) {
    const float* row = logits.as<float>() + r * classes;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](std::int64_t a, std::int64_t b) {
      const bool a_is_nan = std::isnan(row[a]), b_is_nan = std::isnan(row[b]);  // they come last
      return a_is_nan != b_is_nan ? b_is_nan : !a_is_nan && row[a] != row[b] ? row[a] > row[b] : a < b;
    });
    double sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(row[c]) - row[order[0]]);
    Json likeliest = Json::array();
    for (std::int64_t k = 0; k < kept; ++k) {
      const std::int64_t id = order[static_cast<std::size_t>(k)];
      likeliest.push_back(
          {id, token_text(tokenizer, id), number(std::exp(static_cast<double>(row[id]) - row[order[0]]) / sum)});
    }
    out.push_back(std::move(likeliest));
  }
  return out;
}

Json prompt_json(const TracePage& page, const std::vector<NamedTensor>& tensors) {
  const bool is_omni = page.ids.shape.rank() == 3;
  const std::int64_t batch = page.ids.shape[0], time = page.ids.shape[-1], streams = is_omni ? page.ids.shape[1] : 1;
  Json out = {{"batch", batch}, {"time", time}, {"tokens", Json::array()}};
  const std::int64_t* ids = page.ids.as<std::int64_t>();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < time; ++t) {
      const std::int64_t id = ids[(b * streams + streams - 1) * time + t];
      out["tokens"].push_back({id, token_text(page.tokenizer, id)});
    }
  if (is_omni) {
    Json& codes = out["codes"] = Json::array();  // one list per codebook, over all positions
    for (std::int64_t c = 0; c + 1 < streams; ++c) {
      codes.push_back(Json::array());
      for (std::int64_t b = 0; b < batch; ++b)
        for (std::int64_t t = 0; t < time; ++t) codes.back().push_back(ids[(b * streams + c) * time + t]);
    }
  }
  for (const NamedTensor& entry : tensors)
    if (entry.name == "text_logits") out["predictions"] = predictions(page.tokenizer, entry.tensor);
  return out;
}

const SourceFile* find_source(std::string_view path) {
  for (const SourceFile& file : source_files())
    if (file.path == path) return &file;
  return nullptr;
}

// The kernels of the instructions that ran, and the files that they and the ops stand in.
void add_sources(Json& out, const TracePage& page, const Recording& recording) {
  Json &kernels = out["kernels"] = Json::object(), &sources = out["sources"] = Json::object();
  const auto add_file = [&](std::string_view path) {
    const SourceFile* file = find_source(path);
    if (file != nullptr) sources[std::string(path)] = file->text;
  };
  std::set<std::string_view> names;
  for (const Recording::Instruction& instruction : recording.instructions) names.insert(instruction.name);
  for (const InstructionSource& source : instruction_sources()) {
    if (!names.contains(source.name)) continue;
    const SourceLine& kernel = page.on_gpu ? source.cuda : source.cpu;
    kernels[std::string(source.name)] = {{"header", {source.header.path, source.header.line}},
                                         {"kernel", {kernel.path, kernel.line}}};
    add_file(source.header.path);
    add_file(kernel.path);
  }
  for (const Recording::Op& op : recording.ops) add_file(op.file);
}

std::string_view source(const std::string& path) {
  const SourceFile* file = find_source(path);
  if (file == nullptr) throw std::logic_error(path + " is not part of this build");
  return file->text;
}

// Replaces the one `place` in the page.
void put(std::string& page, const std::string& place, std::string_view text) {
  const std::size_t at = page.find(place);
  if (at == std::string::npos) throw std::logic_error("models/trace_page/page.html: no place for " + place);
  page.replace(at, place.size(), text);
}

// JSON that may stand in HTML: a "<" could end the script, and is none of JSON's own characters.
std::string without_tags(std::string_view json) {
  std::string out;
  for (const char byte : json)
    if (byte == '<')
      out += "\\u003c";
    else
      out += byte;
  return out;
}

template <class Item, class Convert>
Json list(const std::vector<Item>& items, const Convert& convert) {
  Json out = Json::array();
  for (const Item& item : items) out.push_back(convert(item));
  return out;
}

}  // namespace

Json trace_json(const TracePage& page, const Recording& recording, const std::vector<NamedTensor>& tensors) {
  Json out = {{"model",
               {{"name", page.model},
                {"device", page.device},
                {"dtype", page.dtype},
                {"parameters", page.parameters},
                {"omni", page.ids.shape.rank() == 3}}},
              {"prompt", prompt_json(page, tensors)},
              {"losses", Json::object()},
              {"limits",
               {{"f32", number(page.limits.f32_flops_per_s)},
                {"bf16", number(page.limits.bf16_flops_per_s)},
                {"memory", number(page.limits.bytes_per_s)}}},
              {"timing", page.timing}};
  for (const NamedTensor& entry : tensors)
    if (entry.name.ends_with("loss")) out["losses"][entry.name] = number(entry.tensor.as<float>()[0]);
  out["ops"] = list(recording.ops, op_json);
  out["instructions"] = list(recording.instructions, instruction_json);
  out["results"] = list(recording.results, result_json);
  out["pictures"] = list(recording.pictures, picture_json);
  add_sources(out, page, recording);
  return out;
}

void write_trace_page(const std::filesystem::path& path, const Json& content) {
  const std::string json =
      content.dump(-1, ' ', false, Json::error_handler_t::replace);  // a token may be half a character
  std::string page(source("models/trace_page/page.html"));
  for (const char* name : {"page.css", "format.js", "pictures.js", "instructions.js", "navigation.js"})
    put(page, "/* " + std::string(name) + " */", source("models/trace_page/" + std::string(name)));
  put(page, "{/* content */}", without_tags(json));
  write_text_file(path, page);
}

}  // namespace omni
