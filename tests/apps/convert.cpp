// convert on the golden models: what goes there and comes back is the same file, byte for byte.

#include <catch2/catch.hpp>

#include "engine/weights.h"
#include "models/omni_model.h"
#include "tests/apps/call.h"
#include "tests/golden/compare.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

void convert(const fs::path& from, const fs::path& to, const std::string& options = {}) {
  const Outcome outcome = call("convert " + from.string() + " " + to.string() + " " + options);
  CAPTURE(outcome.output);
  REQUIRE(outcome.status == 0);
}

std::string bytes_of(const fs::path& file) { return read_text_file(file, std::size_t{1} << 30); }

// Golden model directories, each once.
std::vector<fs::path> models(const std::string& prefix) {
  std::vector<fs::path> out;
  for (const auto& [folder, device] : golden_cases(prefix))
    if (device == "cpu") out.push_back(folder);
  return out;
}

}  // namespace

TEST_CASE("convert: a model directory comes back from a .pth of the same format unchanged") {
  for (const char* prefix : {"omni-", "thinker-"})
    for (const fs::path& model : models(prefix)) {
      CAPTURE(model);
      const TemporaryFolder folder;
      convert(model, folder / "first");
      convert(folder / "first", folder / "model.pth", "--dtype bf16");
      convert(folder / "model.pth", folder / "second", "--config " + (folder / "first/config.json").string());
      REQUIRE(bytes_of(folder / "first/model.safetensors") == bytes_of(folder / "second/model.safetensors"));
      REQUIRE(bytes_of(model / "config.json") == bytes_of(folder / "second/config.json"));
      // The goldens' weights are bf16 already.
      const WeightSource golden = open_weights(model), converted = open_weights(folder / "second");
      REQUIRE(golden.names().size() == converted.names().size());
      for (const std::string& name : golden.names()) REQUIRE(same_bits(golden.at(name), converted.at(name)));
    }
}

TEST_CASE("convert: a .pth comes back from a model directory of the same format unchanged") {
  for (const char* prefix : {"omni-", "thinker-"})
    for (const fs::path& model : models(prefix)) {
      CAPTURE(model);
      const TemporaryFolder folder;
      fs::create_directories(folder / "second");  // the file's name is part of a .pth
      convert(model, folder / "model.pth");
      convert(folder / "model.pth", folder / "directory", "--dtype f16 --config " + (model / "config.json").string());
      convert(folder / "directory", folder / "second/model.pth");
      REQUIRE(bytes_of(folder / "model.pth") == bytes_of(folder / "second/model.pth"));
    }
}

TEST_CASE(
    "convert: a .pth has the names of the state dict in its order, the tied matrix twice, scalars without shape") {
  for (const fs::path& model : models("omni-")) {
    CAPTURE(model);
    const TemporaryFolder folder;
    convert(model, folder / "model.pth");
    const WeightSource pth = open_weights(folder / "model.pth");
    REQUIRE(pth.names().size() == open_weights(model).names().size() + 1);
    REQUIRE(pth.names().front() == "model.embed_tokens.weight");
    REQUIRE(pth.names().back() == "vision_proj.mlp.3.bias");
    const auto place = [&](const std::string& name) {
      return std::find(pth.names().begin(), pth.names().end(), name) - pth.names().begin();
    };
    REQUIRE(place("lm_head.weight") == place("model.norm.weight") + 1);
    REQUIRE(place("talker.text_scale") == place("lm_head.weight") + 1);
    REQUIRE(same_bits(pth.at("lm_head.weight"), pth.at("model.embed_tokens.weight")));
    REQUIRE(pth.at("talker.text_scale").shape.rank() == 0);
    REQUIRE(pth.at("talker.text_scale").dtype == DType::f16);
  }
}

TEST_CASE("convert: a directory with pytorch_model.bin is one like any other, and omni models load from all kinds") {
  for (const fs::path& model : models("omni-")) {
    CAPTURE(model);
    const TemporaryFolder folder;
    convert(model, folder / "first");
    convert(model, folder / "model.pth", "--dtype bf16");
    fs::create_directories(folder / "binary");
    fs::copy_file(folder / "model.pth", folder / "binary/pytorch_model.bin");
    fs::copy_file(model / "config.json", folder / "binary/config.json");
    fs::copy_file(model / "config.json", folder / "config.json");
    convert(folder / "binary", folder / "second");
    REQUIRE(bytes_of(folder / "first/model.safetensors") == bytes_of(folder / "second/model.safetensors"));
    Device device = Device::cpu();
    const auto expected = OmniModel::load(model, DType::f32, Purpose::training, device);
    for (const char* path : {"binary", "model.pth", "second"}) {
      CAPTURE(path);
      const auto loaded = OmniModel::load(folder / path, DType::f32, Purpose::training, device);
      REQUIRE(same_bits(loaded->store.master(), expected->store.master()));
    }
    // What training writes is in the same order as what convert writes.
    expected->save(folder / "saved", DType::bf16);
    REQUIRE(bytes_of(folder / "first/model.safetensors") == bytes_of(folder / "saved/model.safetensors"));
  }
}

}  // namespace omni
