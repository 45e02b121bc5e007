#include "engine/weights.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "engine/files.h"
#include "tests/engine/weight_samples.h"
#include "tests/support/goldens.h"
#include "tests/support/temporary_folder.h"

using namespace omni;
namespace fs = std::filesystem;
using Catch::Matchers::Contains;

namespace {

void require_all(const WeightSource& source, std::span<const NamedView> tensors) {
  REQUIRE(source.names().size() == tensors.size());
  for (const auto& [name, view] : tensors) {
    CAPTURE(name);
    REQUIRE(source.contains(name));
    REQUIRE(same(source.at(name), view));
  }
}

}  // namespace

TEST_CASE("weights open from a directory or a file of any kind, by content") {
  const TemporaryFolder folder;
  const WeightSamples samples;
  for (const std::string name : {"model.safetensors", "pytorch_model.bin", "any.pth"}) {
    const fs::path model = folder / ("model-" + name);
    fs::create_directory(model);
    write_text_file(model / "config.json", "{}");
    name == "model.safetensors" ? write_safetensors(model / name, samples.tensors)
                                : write_pth(model / name, samples.tensors);
    require_all(open_weights(model), samples.tensors);
    require_all(open_weights(model / name), samples.tensors);
    fs::rename(model / name, folder / "no-extension");
    require_all(open_weights(folder / "no-extension"), samples.tensors);
  }
  write_pth(folder / "a.safetensors", samples.tensors);  // the content counts, not the name
  require_all(open_weights(folder / "a.safetensors"), samples.tensors);
}

TEST_CASE("a sharded index joins its files") {
  const TemporaryFolder folder;
  const WeightSamples samples;
  const std::span<const NamedView> all = samples.tensors;
  for (const std::string kind : {"model.safetensors", "pytorch_model.bin"}) {
    const fs::path model = folder / ("sharded-" + kind);
    fs::create_directory(model);
    std::string map;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto part = all.subspan(i * all.size() / 3, (i + 1) * all.size() / 3 - i * all.size() / 3);
      const std::string shard = "part-" + std::to_string(i);
      kind == "model.safetensors" ? write_safetensors(model / shard, part) : write_pth(model / shard, part);
      for (const NamedView& tensor : part) map += (map.empty() ? "\"" : ",\"") + tensor.name + "\":\"" + shard + "\"";
    }
    const fs::path index = model / (kind + ".index.json");
    write_text_file(index, "{\"metadata\":{},\"weight_map\":{" + map + "}}");
    require_all(open_weights(model), all);

    for (const std::string& bad : {std::string("\"more\":\"part-0\""), std::string("\"more\":\"../part-0\""),
                                   std::string("\"more\":\"none\""), std::string("\"more\":1")}) {
      write_text_file(index, "{\"weight_map\":{" + map + "," + bad + "}}");
      REQUIRE_THROWS_AS(open_weights(model), std::runtime_error);
    }
    write_text_file(index, "{\"weight_map\":{");
    REQUIRE_THROWS_WITH(open_weights(model), Contains(index.string()));
  }
}

TEST_CASE("weights that are not there are errors that name the place") {
  const TemporaryFolder folder;
  const float value = 1;
  const std::vector<NamedView> tensors = {{"model.norm.weight", view_of(&value, {1})}};
  REQUIRE_THROWS_WITH(open_weights(folder.path()), Contains(folder.path().string()));
  REQUIRE_THROWS_WITH(open_weights(folder / "none"), Contains("none: No such file"));
  write_pth(folder / "a.pth", tensors);
  REQUIRE_THROWS_WITH(open_weights(folder.path()).at("norm.weight"),
                      Contains(folder.path().string()) && Contains("norm"));
  REQUIRE_THROWS_WITH(open_weights(folder / "a.pth").at("model.norm.wight"), Contains("model.norm.weight"));
  write_pth(folder / "b.pth", tensors);
  REQUIRE_THROWS_WITH(open_weights(folder.path()), Contains("found 2"));
  write_pth(folder / "empty", {});
  REQUIRE_THROWS_WITH(open_weights(folder / "empty"), Contains("dictionary"));
  for (const std::string text : {"", "x", "some text that is neither"}) {
    write_text_file(folder / "text", text);
    REQUIRE_THROWS_WITH(open_weights(folder / "text"), Contains("neither"));
  }
}

TEST_CASE("conversion between floating-point formats rounds to nearest even") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const float values[] = {
      0,           -0.f,        1,     -2.5f,     65504, 65519.9f, 65520, 1e-8f, 6e-8f, 1.00048828125f, 1.00146484375f,
      1.00390625f, 1.01171875f, 3e38f, kInfinity, kNan};
  const float as_f16[] = {0, -0.f,         1,           -2.5f,       65504,     65504,     kInfinity, 0, 0x1p-24f,
                          1, 1.001953125f, 1.00390625f, 1.01171875f, kInfinity, kInfinity, kNan};
  constexpr std::int64_t kCount = std::size(values);
  f16 half[kCount];
  float back[kCount];
  copy_converted(view_of(values, {kCount}), view_of(half, {kCount}));
  copy_converted(view_of(std::as_const(half), {kCount}), view_of(back, {kCount}));
  for (std::int64_t i = 0; i < kCount; ++i) {
    CAPTURE(values[i]);
    REQUIRE((std::isnan(as_f16[i]) ? std::isnan(back[i]) : back[i] == as_f16[i]));
    REQUIRE(std::signbit(back[i]) == std::signbit(values[i]));
  }
  // Just above the middle of two halves: rounding to float first would land on the middle, then on the even neighbour.
  const double above[] = {1 + 0x1p-11 + 0x1p-40, -1 - 0x1p-11 - 0x1p-40, 1 + 0x1p-11 - 0x1p-40, 1e300, 1e-300};
  f16 narrow[5];
  bf16 brain[5];
  copy_converted(view_of(above, {5}), view_of(narrow, {5}));
  copy_converted(view_of(above, {5}), view_of(brain, {5}));
  REQUIRE(to_float(narrow[0]) == 1 + 0x1p-10f);
  REQUIRE(to_float(narrow[1]) == -1 - 0x1p-10f);
  REQUIRE(to_float(narrow[2]) == 1);
  REQUIRE(to_float(narrow[3]) == kInfinity);
  REQUIRE(to_float(brain[4]) == 0);
  const double middle[] = {1 + 0x1p-8 + 0x1p-40};
  copy_converted(view_of(middle, {1}), view_of(brain, {1}));
  REQUIRE(to_float(brain[0]) == 1 + 0x1p-7f);
}

TEST_CASE("conversion to a wider format and back loses nothing, in parallel too") {
  const std::int64_t count = 200003;
  const Shape shape{count};
  for (const DType narrow : {DType::bf16, DType::f16})
    for (const DType wide : {DType::f32, DType::f64, narrow}) {
      const OwnedTensor from(narrow, shape), middle(wide, shape), to(narrow, shape);
      for (std::int64_t i = 0; i < count; ++i) static_cast<std::uint16_t*>(from.view().data)[i] = i & 0x7bff;
      copy_converted(from, middle);
      copy_converted(middle, to);
      REQUIRE(same(from.view(), to.view()));
    }
  const OwnedTensor whole(DType::i64, {3}), real(DType::f32, {3}), other(DType::f32, {1, 3}), nothing(DType::f64, {0});
  copy_converted(whole, OwnedTensor(DType::i64, {3}));
  copy_converted(nothing, OwnedTensor(DType::f32, {0}));
  REQUIRE_THROWS_WITH(copy_converted(whole, real), Contains("i64 [3]") && Contains("f32 [3]"));
  REQUIRE_THROWS_WITH(copy_converted(real, other), Contains("[1, 3]"));
  REQUIRE_THROWS_AS(copy_converted(real, View{{nullptr, DType::f32, {3}}}), std::runtime_error);
}

TEST_CASE("the golden models read the same from .pth and from safetensors") {
  int models = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(golden_folder())) {
    if (!entry.path().filename().string().starts_with("thinker-")) continue;
    CAPTURE(entry.path());
    const WeightSource halves = open_weights(entry.path() / "model_fp16.pth"), brains = open_weights(entry.path());
    for (const std::string& name : halves.names()) {
      CAPTURE(name);
      const ConstView half = halves.at(name),
                      brain = brains.at(name == "lm_head.weight" ? "model.embed_tokens.weight" : name);
      REQUIRE(half.dtype == DType::f16);
      const OwnedTensor expected(DType::f16, brain.shape);
      copy_converted(brain, expected);
      REQUIRE(same(half, expected.view()));
    }
    REQUIRE(halves.names().size() == brains.names().size() + 1);
    ++models;
  }
  REQUIRE(models > 0);
}
