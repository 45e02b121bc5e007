#pragma once
// An omni model of a few thousand parameters.

#include "models/omni_config.h"

namespace omni {

inline OmniConfig small_config(bool use_moe) {
  OmniConfig config;
  config.thinker.hidden_size = 16;
  config.thinker.num_hidden_layers = 2;
  config.thinker.vocab_size = 41;
  config.thinker.num_attention_heads = 2;
  config.thinker.num_key_value_heads = 1;
  config.thinker.head_dim = 8;
  config.thinker.intermediate_size = config.thinker.moe_intermediate_size = 20;
  config.thinker.max_position_embeddings = 64;
  config.thinker.use_moe = use_moe;
  config.thinker.model_type = "minimind-o";
  config.talker_hidden_size = 16;
  config.num_talker_hidden_layers = 1;
  config.audio_vocab_size = 11;
  config.audio_pad_token = 8;
  config.audio_stop_token = 9;
  config.audio_spk_token = 10;
  config.audio_hidden_size = 6;
  config.image_hidden_size = 5;
  config.spk_emb_size = 4;
  config.bridge_layer = 0;
  config.adapter_rank = 3;
  config.think_end_ids = {5, 6};
  return config;
}

// The same as it is read back from a file, where the rank of the adapters is always this.
inline OmniConfig small_config_in_file(bool use_moe) {
  OmniConfig config = small_config(use_moe);
  config.adapter_rank = 256;
  return config;
}

}  // namespace omni
