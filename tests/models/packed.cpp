// Models that keep their weights packed as well.

#include <catch2/catch.hpp>

#include "models/speech_generation.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {

TEST_CASE("inference in bf16 packs every matrix where that is fast, and computes with it what it computes without") {
  Device device = Device::cpu(2);
  for (const bool use_moe : {false, true}) {
    CAPTURE(use_moe);
    const TemporaryFolder folder;
    OmniModel::create(small_config_in_file(use_moe), DType::f32, 3, device)->save(folder.path(), DType::bf16);
    const auto model = OmniModel::load(folder.path(), DType::bf16, Purpose::inference, device);
    for (const Parameter& parameter : model->store.parameters()) {
      CAPTURE(parameter.parts.front().name);
      const bool is_matrix = parameter.parts.front().shape.rank() > 1;
      REQUIRE(static_cast<bool>(parameter.packed) == (kPackedIsFast && is_matrix));
      REQUIRE((!parameter.packed || parameter.packed.rows == parameter.value.rows()));
    }
    const auto logits = [&](bool packed) {
      if (!packed)
        for (Parameter& parameter : model->store.parameters()) parameter.packed = {};
      OmniSequences sequences(device, *model, 1, 16);
      sequences.show(0, {.ids = {7, 8, 9}});
      for (std::int64_t i = 0; i < 4; ++i)
        sequences.append(std::vector<OmniSequences::Step>{{.reads = true, .text = 10 + i, .codes = {}}});
      std::vector<double> out = values_of(sequences.logits().text);
      for (const double value : values_of(sequences.logits().audio)) out.push_back(value);
      return out;
    };
    const std::vector<double> with = logits(true);
    REQUIRE(difference(with, logits(false), 0.05) == "");
  }
}

TEST_CASE("no other weights are packed") {
  Device device = Device::cpu(1);
  const TemporaryFolder folder;
  const auto training = OmniModel::create(small_config_in_file(false), DType::bf16, 3, device);
  training->save(folder.path(), DType::bf16);
  training->store.pack();
  REQUIRE_FALSE(training->store.parameters().front().packed);
  const auto wide = OmniModel::load(folder.path(), DType::f32, Purpose::inference, device);
  for (const Parameter& parameter : wide->store.parameters()) REQUIRE_FALSE(parameter.packed);
}

}  // namespace omni
