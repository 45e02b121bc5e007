#include "models/config.h"

#include <unistd.h>

#include <catch2/catch.hpp>

#include "engine/files.h"

namespace omni {
namespace {

TEST_CASE("config: defaults") {
  const ThinkerConfig config = parse_config("{}", "config.json");
  CHECK(config == ThinkerConfig{});
  CHECK(config.head_dim == 96);
  CHECK(config.intermediate_size == 2432);
  CHECK(config.moe_intermediate_size == 2432);
  CHECK_FALSE(config.rope_scaling());
  CHECK(ThinkerConfig::default_intermediate_size(512) == 1664);
  CHECK(ThinkerConfig::default_intermediate_size(384) == 1216);
}

TEST_CASE("config: defaults that follow other fields") {
  const ThinkerConfig config =
      parse_config(R"({"hidden_size": 512, "head_dim": null, "dropout": 0.5, "id2label": {}})", "c");
  CHECK(config.head_dim == 64);
  CHECK(config.intermediate_size == 1664);
  CHECK(config.moe_intermediate_size == 1664);
  const ThinkerConfig free = parse_config(
      R"({"hidden_size": 50, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 128, "intermediate_size": 7})",
      "c");
  CHECK(free.head_dim == 128);
  CHECK(free.intermediate_size == 7);
  CHECK(free.moe_intermediate_size == 7);
}

TEST_CASE("config: YaRN by its flag alone") {
  CHECK_FALSE(parse_config(R"({"rope_scaling": {"factor": 2}})", "c").rope_scaling());
  const auto yarn = parse_config(R"({"inference_rope_scaling": true})", "c").rope_scaling();
  REQUIRE(yarn);
  CHECK(yarn->factor == 16);
  CHECK(yarn->beta_fast == 32);
  CHECK(yarn->beta_slow == 1);
  CHECK(yarn->original_max_position_embeddings == 2048);
  CHECK(yarn->attention_factor == 1);
}

TEST_CASE("config: written and read again") {
  ThinkerConfig config;
  config.hidden_size = 64;
  config.num_hidden_layers = 3;
  config.use_moe = true;
  config.vocab_size = 320;
  config.bos_token_id = 5;
  config.eos_token_id = 6;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 32;
  config.intermediate_size = 100;
  config.max_position_embeddings = 512;
  config.rms_norm_eps = 1e-5;
  config.rope_theta = 12345.5;
  config.tie_word_embeddings = false;
  config.num_experts = 6;
  config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 99;
  config.norm_topk_prob = false;
  config.router_aux_loss_coef = 0.25;
  const auto json = config.to_json("float32");
  CHECK(parse_config(json.dump(), "c") == config);
  CHECK(json["architectures"].dump() == R"(["MiniMindForCausalLM"])");
  CHECK(json["auto_map"]["AutoConfig"] == "model_minimind.MiniMindConfig");
  CHECK(json["model_type"] == "minimind");
  CHECK(json["dtype"] == "float32");
  CHECK(json.contains("rope_scaling"));
  CHECK(json["rope_scaling"].is_null());
  config.inference_rope_scaling = true;
  CHECK(parse_config(config.to_json().dump(), "c") == config);
  CHECK(config.to_json()["rope_scaling"]["type"] == "yarn");
}

TEST_CASE("config: a file or its directory") {
  const auto directory = std::filesystem::temp_directory_path() / ("omni_config_" + std::to_string(getpid()));
  std::filesystem::create_directories(directory);
  write_text_file(directory / "config.json", R"({"model_type": "minimind-o", "vocab_size": 77})");
  CHECK(load_config(directory).vocab_size == 77);
  CHECK(load_config(directory / "config.json").vocab_size == 77);
  std::filesystem::remove_all(directory);
  CHECK_THROWS_WITH(load_config(directory / "config.json"), Catch::Contains("config.json"));
}

TEST_CASE("config: errors name file, field, expected and found") {
  const auto fails = [](const char* text, const char* field, const char* found) {
    CAPTURE(text);
    CHECK_THROWS_WITH(parse_config(text, "dir/config.json"),
                      Catch::StartsWith(std::string("dir/config.json: ") + field + ": expected ") &&
                          Catch::EndsWith(std::string("found ") + found));
  };
  fails(R"({"hidden_size": "768"})", "hidden_size", "\"768\"");
  fails(R"({"hidden_size": 768.0})", "hidden_size", "768.0");
  fails(R"({"hidden_size": 0})", "hidden_size", "0");
  fails(R"({"hidden_size": -768})", "hidden_size", "-768");
  fails(R"({"hidden_size": 18446744073709551615})", "hidden_size", "18446744073709551615");
  fails(R"({"hidden_size": [768]})", "hidden_size", "a list of 1");
  fails(R"({"num_hidden_layers": 1000000})", "num_hidden_layers", "1000000");
  fails(R"({"vocab_size": 0})", "vocab_size", "0");
  fails(R"({"vocab_size": 3, "eos_token_id": 3})", "eos_token_id", "3");
  fails(R"({"num_attention_heads": 0})", "num_attention_heads", "0");
  fails(R"({"num_key_value_heads": 3})", "num_key_value_heads", "3");
  fails(R"({"num_key_value_heads": 16})", "num_key_value_heads", "16");
  fails(R"({"head_dim": 7})", "head_dim", "7");
  fails(R"({"head_dim": 130})", "head_dim", "130");
  fails(R"({"head_dim": -2})", "head_dim", "-2");
  fails(R"({"hidden_size": 100})", "head_dim", "nothing");
  fails(R"({"hidden_size": 2048})", "head_dim", "nothing");
  fails(R"({"hidden_act": "gelu"})", "hidden_act", "\"gelu\"");
  fails(R"({"use_moe": 1})", "use_moe", "1");
  fails(R"({"intermediate_size": 0})", "intermediate_size", "0");
  fails(R"({"num_experts_per_tok": 5})", "num_experts_per_tok", "5");
  fails(R"({"num_experts": 0})", "num_experts", "0");
  fails(R"({"rms_norm_eps": -1e-6})", "rms_norm_eps", "-1e-06");
  fails(R"({"rope_theta": 0})", "rope_theta", "0");
  fails(R"({"rope_theta": true})", "rope_theta", "true");
  fails(R"({"model_type": "llama"})", "model_type", "\"llama\"");
  CHECK_THROWS_WITH(parse_config("[]", "c"), Catch::Equals("c: expected an object, found a list of 0"));
  CHECK_THROWS_WITH(parse_config("", "c"), Catch::StartsWith("c: not valid JSON"));
  CHECK_THROWS_WITH(parse_config(R"({"a": )", "c"), Catch::StartsWith("c: not valid JSON"));
}

}  // namespace
}  // namespace omni
