#pragma once
// The configuration of the language model: config.json of a Hugging Face model directory.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "models/json_fields.h"

namespace omni {

// Stretching of the rotary position table beyond the length that a model was trained with (YaRN, arXiv 2309.00071). The
// model family knows this one setting, on or off.
struct YarnScaling {
  double factor = 16, beta_fast = 32, beta_slow = 1;
  std::int64_t original_max_position_embeddings = 2048;
  double attention_factor = 1;
};

// Field names and defaults are those of config.json. The dropout of the original is 0 everywhere and has no field here.
struct ThinkerConfig {
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 8;
  bool use_moe = false;  // every feed-forward block is a mixture of experts
  std::int64_t vocab_size = 6400;
  std::int64_t bos_token_id = 1, eos_token_id = 2;  // turn start and turn end
  std::int64_t num_attention_heads = 8;
  std::int64_t num_key_value_heads = 4;
  std::int64_t head_dim = 96;
  std::string hidden_act = "silu";
  std::int64_t intermediate_size = 2432;
  std::int64_t max_position_embeddings = 32768;  // rows of the rotary table
  double rms_norm_eps = 1e-6;
  double rope_theta = 1e6;
  bool tie_word_embeddings = true;
  bool inference_rope_scaling = false;
  std::int64_t num_experts = 4;
  std::int64_t num_experts_per_tok = 1;
  std::int64_t moe_intermediate_size = 2432;
  bool norm_topk_prob = true;
  double router_aux_loss_coef = 5e-4;
  std::string model_type = "minimind";

  // ceil(hidden_size * pi / 64) * 64, used where config.json has no intermediate_size.
  static std::int64_t default_intermediate_size(std::int64_t hidden_size);

  std::optional<YarnScaling> rope_scaling() const;

  // A config.json that the original's MiniMindConfig reads. `dtype` is that of the weights: "bfloat16", "float32", ...
  nlohmann::ordered_json to_json(std::string_view dtype = "bfloat16") const;

  bool operator==(const ThinkerConfig&) const = default;
};

// Reads the fields of the language model. Missing and null fields take their defaults: head_dim is then hidden_size /
// num_attention_heads and moe_intermediate_size is intermediate_size. Unknown fields are ignored, as these files hold
// many of the library that wrote them. Throws std::runtime_error that names file, field, what was expected and what was
// found.
ThinkerConfig read_thinker_config(const JsonFields& fields);
ThinkerConfig config_from_json(const nlohmann::json& json, const std::string& name);
ThinkerConfig parse_config(std::string_view text, const std::string& name);

// The directory of a model that is named by its directory or by a weight file in it. Throws std::runtime_error if there
// is neither.
std::filesystem::path model_directory(const std::filesystem::path& model);

// `path` is a config.json or a directory that holds one.
ThinkerConfig load_config(const std::filesystem::path& path);

}  // namespace omni
