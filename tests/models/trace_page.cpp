// The page of trace --html: that it tells of every instruction, and tells the truth.

#include "models/trace_page.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <regex>
#include <set>

#include "engine/files.h"
#include "models/source_index.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

// What a pass did, seen by the recorder and by the profiler.
struct Traced {
  Json page;
  std::vector<Profiler::Entry> ran;
};

Traced trace_thinker(bool use_moe, bool gradients) {
  Device device = Device::cpu(2);
  const auto model = ThinkerModel::create(small_config(use_moe).thinker, DType::f32, 3, device);
  const OwnedTensor ids = random_ids({2, 7}, 1, 41);
  device.profiler().set_mode(Profiler::Mode::list);
  device.profiler().clear();
  StepRecorder recorder(model->store, 14);
  const auto tensors = trace_forward(device, *model, ids, ids, gradients, &recorder);
  TracePage page;
  page.model = "small";
  page.ids = ids;
  return {trace_json(page, recorder.recording(), tensors), device.profiler().executions()};
}

Traced trace_small_omni() {
  Device device = Device::cpu(2);
  const auto model = OmniModel::create(small_config(false), DType::f32, 3, device);
  const OwnedTensor ids = random_ids({2, 9, 5}, 1, 8), text = random_ids({2, 5}, 2, 41),
                    audio = random_ids({2, 8, 5}, 3, 8);
  OmniBatch batch;
  batch.input_ids = ids;
  batch.text_labels = text;
  batch.audio_labels = audio;
  device.profiler().set_mode(Profiler::Mode::list);
  device.profiler().clear();
  StepRecorder recorder(model->store, 10);
  const auto tensors = trace_omni(device, *model, batch, true, &recorder);
  TracePage page;
  page.model = "small omni";
  page.ids = ids;
  return {trace_json(page, recorder.recording(), tensors), device.profiler().executions()};
}

std::string line_of(const std::string& path, int number) {
  const std::string text = read_text_file(std::filesystem::path(OMNI_SOURCE_DIR) / path);
  std::size_t begin = 0;
  for (int line = 1; line < number; ++line) begin = text.find('\n', begin) + 1;
  return text.substr(begin, text.find('\n', begin) - begin);
}

// The operands that an instruction declares without a default, so cannot do without, but for those that its comment or
// its check() lets be absent.
std::vector<std::string> needed_operands(const std::string& instruction) {
  static const std::set<std::string> kOptional = {"rstd",      "lse",       "mean",     "dx", "dweight",
                                                  "daux_loss", "aux_loss",  "da",       "db", "dbias",
                                                  "dtable",    "dq_weight", "dk_weight"};
  for (const InstructionSource& source : instruction_sources()) {
    if (source.name != instruction) continue;
    std::vector<std::string> out;
    for (int line = source.header.line + 1;; ++line) {
      const std::string text = line_of(std::string(source.header.path), line);
      if (text.starts_with("};")) return out;
      std::smatch match;
      if (!std::regex_match(text, match, std::regex("  (?:Const)?View ([\\w, ]+);.*"))) continue;
      const std::string names = match[1];
      const std::regex word("\\w+");
      for (std::sregex_iterator name(names.begin(), names.end(), word), end; name != end; ++name) {
        std::string text_of = name->str();
        if (text_of.ends_with('_')) text_of.pop_back();  // do_ is "do" to a reader
        if (!kOptional.contains(text_of)) out.push_back(text_of);
      }
    }
  }
  throw std::logic_error("no instruction " + instruction);
}

std::int64_t product(const Json& shape) {
  std::int64_t out = 1;
  for (const Json& size : shape) out *= size.get<std::int64_t>();
  return out;
}

void check_instruction(const Json& page, const Json& instruction, std::int64_t index) {
  CAPTURE(instruction.dump());
  CHECK(instruction["seconds"].get<double>() >= 0);
  CHECK(instruction["bytes"].get<std::int64_t>() > 0);
  CHECK(instruction["op"].get<std::size_t>() < page["ops"].size());
  REQUIRE_FALSE(instruction["operands"].empty());
  std::set<std::string> names;
  bool writes = false;
  for (const Json& operand : instruction["operands"]) {
    names.insert(operand["name"]);
    writes = writes || operand.contains("written");
    REQUIRE(operand["picture"].get<std::size_t>() < page["pictures"].size());
    const Json& picture = page["pictures"][operand["picture"].get<std::size_t>()];
    CHECK(picture["rows"].get<std::int64_t>() * picture["columns"].get<std::int64_t>() == product(operand["shape"]));
    CHECK(picture["min"].is_number());
    CHECK(picture["min"].get<double>() <= picture["mean"].get<double>());
    CHECK(picture["mean"].get<double>() <= picture["max"].get<double>());
    if (operand.contains("writer")) CHECK(operand["writer"].get<std::int64_t>() < index);
  }
  CHECK(writes);
  CHECK(names.size() == instruction["operands"].size());
  for (const std::string& name : needed_operands(instruction["name"])) {
    CAPTURE(name);
    CHECK(names.contains(name));
  }
  CHECK(page["kernels"].contains(instruction["name"].get<std::string>()));
}

void check_page(const Traced& traced, bool gradients) {
  const Json& page = traced.page;
  const Json& instructions = page["instructions"];
  // With gradients, zeros for what nobody used may follow the pass.
  REQUIRE(instructions.size() <= traced.ran.size());
  for (std::size_t i = instructions.size(); i < traced.ran.size(); ++i) CHECK(traced.ran[i].instruction == "fill");
  std::set<std::size_t> forward, backward;
  for (std::size_t i = 0; i < instructions.size(); ++i) {
    CHECK(instructions[i]["name"] == traced.ran[i].instruction);
    CHECK(instructions[i]["bytes"] == traced.ran[i].work.bytes);
    CHECK(instructions[i]["flops"] == traced.ran[i].work.flops);
    check_instruction(page, instructions[i], static_cast<std::int64_t>(i));
    (instructions[i]["backward"] ? backward : forward).insert(instructions[i]["op"].get<std::size_t>());
  }
  CHECK(forward.size() == page["ops"].size());
  if (!gradients) CHECK(backward.empty());
  for (std::size_t op = 0; op < page["ops"].size(); ++op) {
    CAPTURE(page["ops"][op].dump());
    CHECK_FALSE(page["ops"][op]["section"].get<std::string>().empty());
    // The gradient of a sum is handed on without an instruction.
    const bool has_backward = page["ops"][op].contains("source") && page["ops"][op]["function"] != "add";
    if (gradients && has_backward && page["ops"][op]["section"] != "input") CHECK(backward.contains(op));
  }
}

}  // namespace

TEST_CASE("a trace's page has every instruction that ran, forward and backward, with numbers and pictures") {
  for (const bool use_moe : {false, true})
    for (const bool gradients : {false, true}) {
      CAPTURE(use_moe, gradients);
      check_page(trace_thinker(use_moe, gradients), gradients);
    }
  check_page(trace_small_omni(), true);
}

TEST_CASE("a trace's page knows what made an operand, whose parameter it is, and where an op stands") {
  const Json page = trace_thinker(false, true).page;
  const Json& instructions = page["instructions"];
  const auto operand = [](const Json& instruction, const std::string& name) -> const Json& {
    for (const Json& entry : instruction["operands"])
      if (entry["name"] == name) return entry;
    throw std::logic_error("no operand " + name);
  };
  // embedding, then block 0: rms_norm, matmul, qk_norm_rope, attention, matmul, add_rms_norm, matmul, swiglu, matmul
  REQUIRE(instructions[8]["name"] == "swiglu");
  CHECK(operand(instructions[8], "gate_up")["writer"] == 7);
  CHECK(operand(instructions[8], "y")["written"] == true);
  CHECK(operand(instructions[2], "b")["parameter"] == "model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight");
  CHECK_FALSE(operand(instructions[2], "b").contains("writer"));
  const Json& op = page["ops"][instructions[8]["op"].get<std::size_t>()];
  CHECK(op["function"] == "feed_forward");
  CHECK(op["section"] == "model.layers.0");
  CHECK(line_of(op["source"][0], op["source"][1]).find("on_backward(") != std::string::npos);
  CHECK(page["ops"].back()["section"] == "loss");

  // Its mirror: the backward instruction of the same op, and the gradient of its weight.
  bool found = false, gradient = false;
  for (const Json& instruction : instructions) {
    if (instruction["op"] != instructions[8]["op"] || !instruction["backward"]) continue;
    found = found || instruction["name"] == "swiglu_backward";
    for (const Json& entry : instruction["operands"])
      gradient =
          gradient || (entry.value("gradient", false) && entry["parameter"] == "model.layers.0.mlp.down_proj.weight");
  }
  CHECK(found);
  CHECK(gradient);
  REQUIRE(page["prompt"]["predictions"].size() == 14);
  double sum = 0;
  for (const Json& likely : page["prompt"]["predictions"][3]) sum += likely[2].get<double>();
  CHECK(sum > 5.0 / 41);
  CHECK(sum < 1);
  CHECK(page["losses"]["loss"].get<double>() == Approx(std::log(41)).margin(0.5));
}

TEST_CASE("each instruction's source lines are where the sources say") {
  REQUIRE(instruction_sources().size() > 30);
  for (const InstructionSource& source : instruction_sources()) {
    CAPTURE(std::string(source.name));
    const auto at = [](const SourceLine& line) { return line_of(std::string(line.path), line.line); };
    const std::string header = at(source.header);
    REQUIRE(header.starts_with("struct "));
    const std::string operand = "const " + header.substr(7, header.find(" {") - 7) + "& op) {";
    CHECK(at(source.cpu).find("void run(const CpuContext&") == 0);
    CHECK(at(source.cpu).find(operand) != std::string::npos);
    CHECK(at(source.cuda).find("void run(const CudaContext&") == 0);
    CHECK(at(source.cuda).find(operand) != std::string::npos);
  }
}

TEST_CASE("a trace's page is one file whose text nobody takes for markup") {
  const std::string evil = "</script><!-- <b>\xff \xe2\x82\xac & \"";
  Json content = trace_thinker(false, false).page;
  content["model"]["name"] = evil;
  const TemporaryFolder folder;
  write_trace_page(folder / "page.html", content);
  const std::string page = read_text_file(folder / "page.html");
  const std::string open = "<script id=\"trace\" type=\"application/json\">";
  const std::size_t begin = page.find(open) + open.size(), end = page.find("</script>", begin);
  REQUIRE(begin > open.size());
  const std::string json = page.substr(begin, end - begin);
  CHECK(json.find('<') == std::string::npos);
  const Json parsed = Json::parse(json);
  CHECK(parsed["model"]["name"] == "</script><!-- <b>\xef\xbf\xbd \xe2\x82\xac & \"");
  CHECK(parsed["instructions"].size() == content["instructions"].size());
  CHECK(parsed["sources"] == content["sources"]);
  const std::string frame = page.substr(0, begin) + page.substr(end);
  for (const char* external : {"http:", "https:", "src=", "@import", "url(", "<link"})
    CHECK(frame.find(external) == std::string::npos);
}

TEST_CASE("a picture is the means of a tensor's cells") {
  Device device = Device::cpu(1);
  OwnedTensor tensor = zeros(DType::f32, {3, 4});
  const float values[12] = {1, 1, -4, -4, 0, 2, 0, 0, 3, 5, 8, 8};
  std::copy_n(values, 12, tensor.as<float>());
  const Picture picture = picture_of(device, tensor, {.height = 24, .width = 2, .position_height = 48, .positions = 0});
  CHECK(picture.height == 3);
  CHECK(picture.width == 2);
  CHECK(picture.scale == 8);
  CHECK(picture.smallest == -4);
  CHECK(picture.largest == 8);
  CHECK(picture.mean == Approx(20. / 12));
  CHECK(picture.root_mean_square == Approx(std::sqrt(200. / 12)));
  CHECK(picture.values == std::vector<double>(values, values + 12));
  CHECK(picture.cells == std::vector<std::uint8_t>{144, 65, 144, 128, 192, 255});

  tensor.as<float>()[2] = std::numeric_limits<float>::quiet_NaN();
  const Picture broken = picture_of(device, tensor, {.height = 1, .width = 4, .position_height = 1, .positions = 0});
  CHECK(broken.not_finite == 1);
  CHECK(broken.smallest == -4);
  CHECK(broken.cells == std::vector<std::uint8_t>{192, 255, 0, 192});
}

TEST_CASE("rows of a picture are positions where leading dimensions allow it") {
  Device device = Device::cpu(1);
  const PictureSize size{.height = 5, .width = 64, .position_height = 48, .positions = 14};
  const auto rows = [&](const Shape& shape) {
    const OwnedTensor tensor = zeros(DType::i64, shape);
    const Picture picture = picture_of(device, tensor, size);
    return std::pair(picture.rows, picture.height);
  };
  CHECK(rows({2, 7, 3, 8}) == std::pair<std::int64_t, int>(14, 14));
  CHECK(rows({14, 100}) == std::pair<std::int64_t, int>(14, 14));
  CHECK(rows({14}) == std::pair<std::int64_t, int>(14, 14));
  CHECK(rows({2, 3, 7}) == std::pair<std::int64_t, int>(6, 5));
  CHECK(rows({100}) == std::pair<std::int64_t, int>(1, 1));
  CHECK(rows({0, 4}) == std::pair<std::int64_t, int>(0, 0));
}

TEST_CASE("names of joined parameters") {
  CHECK(joined_name({"a.b.weight"}) == "a.b.weight");
  CHECK(joined_name({"a.q.weight", "a.k.weight", "a.v.weight"}) == "a.{q,k,v}.weight");
  CHECK(joined_name({"e.0.gate.w", "e.0.up.w", "e.1.gate.w", "e.2.up.w", "e.3.up.w"}) == "e.*.{gate,up}.w");
}

}  // namespace omni
