// What is wrong with the weights of a model directory is named.

#include <catch2/catch.hpp>
#include <cmath>

#include "models/omni_model.h"
#include "models/thinker_model.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

using Catch::Contains;

constexpr const char* kTensor = "talker.layers.0.input_layernorm.weight";

// A model directory whose weights `change` has been at.
template <class Change>
void write_changed(const std::filesystem::path& folder, const OmniModel& model, const Change& change) {
  model.save(folder, DType::f32);
  std::vector<OwnedTensor> memory;
  std::vector<NamedView> tensors = checkpoint_tensors(model.store, memory);
  change(tensors);
  write_safetensors(folder / "model.safetensors", tensors);
}

NamedView& find(std::vector<NamedView>& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& one) { return one.name == name; });
  REQUIRE(found != tensors.end());
  return *found;
}

}  // namespace

TEST_CASE("a missing, unknown, misshapen or not finite tensor is an error that names file and tensor") {
  const TemporaryFolder folder;
  Device device = Device::cpu();
  OmniConfig config = small_config(false);
  config.adapter_rank = 256;  // what a config.json stands for
  const auto model = OmniModel::create(config, DType::f32, 3, device);
  const auto load = [&] { return OmniModel::load(folder.path(), DType::f32, Purpose::inference, device); };
  const std::string file = folder.path().string();

  write_changed(folder.path(), *model, [](auto& tensors) {
    std::erase_if(tensors, [](const NamedView& one) { return one.name == kTensor; });
  });
  REQUIRE_THROWS_WITH(load(), Contains(file) && Contains(kTensor));

  write_changed(folder.path(), *model, [](auto& tensors) {
    tensors.push_back({"talker.layers.0.input_layernorm.wieght", find(tensors, kTensor).view});
  });
  REQUIRE_THROWS_WITH(load(), Contains(file) && Contains("input_layernorm.wieght: the model has no such tensor") &&
                                  Contains("did you mean") && Contains(kTensor));

  write_changed(folder.path(), *model, [](auto& tensors) {
    NamedView& one = find(tensors, kTensor);
    one.view = slice(one.view, 0, {4});
  });
  REQUIRE_THROWS_WITH(load(), Contains(kTensor) && Contains("expected shape [16], found [4]"));

  for (const float bad : {NAN, INFINITY}) {
    const OwnedTensor values = zeros(DType::f32, {16});
    values.as<float>()[11] = bad;
    write_changed(folder.path(), *model, [&](auto& tensors) { find(tensors, kTensor).view = values; });
    REQUIRE_THROWS_WITH(load(), Contains(kTensor) && Contains("expected finite numbers, element 11 is"));
  }

  // A Thinker is read out of an omni model, whose other modules it leaves alone.
  write_changed(folder.path(), *model, [](auto&) {});
  REQUIRE_NOTHROW(load());
  REQUIRE_NOTHROW(ThinkerModel::load(folder.path(), DType::f32, Purpose::inference, device));
}

}  // namespace omni
