#include "models/saved_order.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

namespace omni {

TEST_CASE("tensors are saved in the order of the original's state dict") {
  std::vector<std::string> expected = {"model.embed_tokens.weight"};
  const auto block = [&](const std::string& prefix) {
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.q_norm",
          "self_attn.k_norm", "input_layernorm", "post_attention_layernorm", "mlp.gate"})
      expected.push_back(prefix + name + ".weight");
    for (int e = 0; e < 11; ++e)
      for (const char* name : {"gate_proj", "down_proj", "up_proj"})
        expected.push_back(prefix + "mlp.experts." + std::to_string(e) + "." + name + ".weight");
  };
  for (int i = 0; i < 12; ++i) block("model.layers." + std::to_string(i) + ".");
  expected.insert(expected.end(), {"model.norm.weight", "lm_head.weight", "talker.text_scale", "talker.audio_scale"});
  block("talker.layers.0.");
  block("talker.layers.1.");
  expected.push_back("talker.norm.weight");
  for (const std::string table : {"talker.lm_head.", "talker.embed_tokens."}) {
    expected.push_back(table + "base.weight");
    for (int c = 0; c < 8; ++c)
      for (const char* part : {".0.weight", ".2.weight"})
        expected.push_back(table + "adapters." + std::to_string(c) + part);
  }
  for (const std::string projector : {"talker.codec_proj.", "talker.embed_proj."})
    for (const char* part : {"0.weight", "0.bias", "2.weight", "2.bias", "3.weight"})
      expected.push_back(projector + part);
  expected.push_back("talker.spk_proj.weight");
  for (const std::string projector : {"audio_proj.mlp.", "vision_proj.mlp."})
    for (const char* part : {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"})
      expected.push_back(projector + part);

  std::vector<std::string> shuffled = expected;
  std::mt19937 random(1);
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  std::vector<NamedView> tensors = {{"unknown.z", {}}, {"", {}}, {"unknown.a", {}}};
  for (const std::string& name : shuffled) tensors.push_back({name, {}});
  sort_as_saved(tensors);
  std::vector<std::string> names;
  for (const NamedView& tensor : tensors) names.push_back(tensor.name);
  expected.insert(expected.end(), {"unknown.z", "", "unknown.a"});
  REQUIRE(names == expected);
}

}  // namespace omni
