#include "models/config.h"

#include <cmath>
#include <numbers>

#include "engine/files.h"
#include "models/json_text.h"

namespace omni {
namespace {

// Far above any model of this family, low enough that no product of sizes overflows.
constexpr std::int64_t kLargestWidth = 1 << 16, kMostLayers = 1024, kMostHeads = 1024, kMostExperts = 1024,
                       kLargestIntermediate = 1 << 20, kLargestTable = 1 << 24;
constexpr std::int64_t kLargestHead = 128;  // what the attention kernels hold in registers

void check_heads(const JsonFields& fields, const ThinkerConfig& config) {
  const std::string heads = std::to_string(config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    fields.fail("num_key_value_heads", "a divisor of num_attention_heads (" + heads + ")");
  if (!fields.has("head_dim") && config.hidden_size % config.num_attention_heads != 0)
    fields.fail("head_dim", "a value, as hidden_size (" + std::to_string(config.hidden_size) +
                                ") is no multiple of num_attention_heads (" + heads + ")");
  if (config.head_dim % 2 != 0 || config.head_dim < 2 || config.head_dim > kLargestHead)
    fields.fail("head_dim", "an even number from 2 to " + std::to_string(kLargestHead) +
                                (fields.has("head_dim") ? ""
                                                        : ", not " + std::to_string(config.head_dim) +
                                                              " (hidden_size / num_attention_heads)"));
}

void read_attention(const JsonFields& fields, ThinkerConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", config.num_attention_heads, 1, kMostHeads);
  config.num_key_value_heads = fields.integer("num_key_value_heads", config.num_key_value_heads, 1, kMostHeads);
  config.head_dim = fields.integer("head_dim", config.hidden_size / config.num_attention_heads, INT64_MIN, INT64_MAX);
  check_heads(fields, config);
  config.max_position_embeddings =
      fields.integer("max_position_embeddings", config.max_position_embeddings, 1, kLargestTable);
  config.rope_theta = fields.number("rope_theta", config.rope_theta, 1.0001, 1e12);
  config.inference_rope_scaling = fields.boolean("inference_rope_scaling", config.inference_rope_scaling);
}

void read_feed_forward(const JsonFields& fields, ThinkerConfig& config) {
  config.hidden_act = fields.text("hidden_act", config.hidden_act);
  if (config.hidden_act != "silu") fields.fail("hidden_act", "\"silu\" (nothing else is implemented)");
  config.intermediate_size = fields.integer(
      "intermediate_size", ThinkerConfig::default_intermediate_size(config.hidden_size), 1, kLargestIntermediate);
  config.use_moe = fields.boolean("use_moe", config.use_moe);
  config.num_experts = fields.integer("num_experts", config.num_experts, 1, kMostExperts);
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", config.num_experts_per_tok, 1, kMostExperts);
  if (config.num_experts_per_tok > config.num_experts)
    fields.fail("num_experts_per_tok", "at most num_experts (" + std::to_string(config.num_experts) + ")");
  config.moe_intermediate_size =
      fields.integer("moe_intermediate_size", config.intermediate_size, 1, kLargestIntermediate);
  config.norm_topk_prob = fields.boolean("norm_topk_prob", config.norm_topk_prob);
  config.router_aux_loss_coef = fields.number("router_aux_loss_coef", config.router_aux_loss_coef, 0, 1e6);
}

}  // namespace

std::int64_t ThinkerConfig::default_intermediate_size(std::int64_t hidden_size) {
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(hidden_size) * std::numbers::pi / 64)) * 64;
}

std::optional<YarnScaling> ThinkerConfig::rope_scaling() const {
  return inference_rope_scaling ? std::optional(YarnScaling{}) : std::nullopt;
}

ThinkerConfig read_thinker_config(const JsonFields& fields) {
  ThinkerConfig config;
  config.model_type = fields.text("model_type", config.model_type);
  if (config.model_type != "minimind" && config.model_type != "minimind-o")
    fields.fail("model_type", "\"minimind\" or \"minimind-o\"");
  config.hidden_size = fields.integer("hidden_size", config.hidden_size, 1, kLargestWidth);
  config.num_hidden_layers = fields.integer("num_hidden_layers", config.num_hidden_layers, 1, kMostLayers);
  config.vocab_size = fields.integer("vocab_size", config.vocab_size, 1, kLargestTable);
  config.bos_token_id = fields.integer("bos_token_id", config.bos_token_id, 0, config.vocab_size - 1);
  config.eos_token_id = fields.integer("eos_token_id", config.eos_token_id, 0, config.vocab_size - 1);
  config.rms_norm_eps = fields.number("rms_norm_eps", config.rms_norm_eps, 0, 1);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", config.tie_word_embeddings);
  read_attention(fields, config);
  read_feed_forward(fields, config);
  return config;
}

ThinkerConfig config_from_json(const nlohmann::json& json, const std::string& name) {
  return read_thinker_config(JsonFields(json, name));
}

ThinkerConfig parse_config(std::string_view text, const std::string& name) {
  return config_from_json(parse_json<nlohmann::json>(text, name), name);
}

std::filesystem::path model_directory(const std::filesystem::path& model) {
  if (!std::filesystem::exists(model))
    throw std::runtime_error(model.string() + ": expected a model directory or a weight file, found nothing");
  return std::filesystem::is_directory(model) ? model : std::filesystem::absolute(model).parent_path();
}

ThinkerConfig load_config(const std::filesystem::path& path) {
  const std::filesystem::path file = std::filesystem::is_directory(path) ? path / "config.json" : path;
  return parse_config(read_text_file(file), file.string());
}

nlohmann::ordered_json ThinkerConfig::to_json(std::string_view dtype) const {
  nlohmann::ordered_json scaling;  // null unless the flag is set: the reader makes it from the flag
  if (const auto yarn = rope_scaling())
    scaling = {{"beta_fast", yarn->beta_fast},
               {"beta_slow", yarn->beta_slow},
               {"factor", yarn->factor},
               {"original_max_position_embeddings", yarn->original_max_position_embeddings},
               {"attention_factor", yarn->attention_factor},
               {"type", "yarn"}};
  return {{"architectures", {"MiniMindForCausalLM"}},
          {"model_type", "minimind"},
          {"auto_map",
           {{"AutoConfig", "model_minimind.MiniMindConfig"},
            {"AutoModelForCausalLM", "model_minimind.MiniMindForCausalLM"}}},
          {"dtype", dtype},
          {"hidden_size", hidden_size},
          {"num_hidden_layers", num_hidden_layers},
          {"use_moe", use_moe},
          {"dropout", 0.0},
          {"vocab_size", vocab_size},
          {"bos_token_id", bos_token_id},
          {"eos_token_id", eos_token_id},
          {"num_attention_heads", num_attention_heads},
          {"num_key_value_heads", num_key_value_heads},
          {"head_dim", head_dim},
          {"hidden_act", hidden_act},
          {"intermediate_size", intermediate_size},
          {"max_position_embeddings", max_position_embeddings},
          {"rms_norm_eps", rms_norm_eps},
          {"rope_theta", rope_theta},
          {"rope_scaling", scaling},
          {"inference_rope_scaling", inference_rope_scaling},
          {"tie_word_embeddings", tie_word_embeddings},
          {"flash_attn", true},
          {"num_experts", num_experts},
          {"num_experts_per_tok", num_experts_per_tok},
          {"moe_intermediate_size", moe_intermediate_size},
          {"norm_topk_prob", norm_topk_prob},
          {"router_aux_loss_coef", router_aux_loss_coef}};
}

}  // namespace omni
