// Any bytes as config.json: an error, or a configuration that is the same after writing and reading it again.

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/config.h"

std::vector<std::string> fuzz_seeds() {
  return {omni::ThinkerConfig{}.to_json().dump(), R"({"hidden_size": 64, "num_attention_heads": 4, "use_moe": true,
    "num_experts": 6, "num_experts_per_tok": 2, "inference_rope_scaling": true, "id2label": {"0": "a"}})",
          "{}", ""};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    omni::ThinkerConfig config = omni::parse_config({reinterpret_cast<const char*>(data), size}, "config.json");
    config.model_type = "minimind";  // what to_json writes
    if (omni::parse_config(config.to_json().dump(), "config.json") != config) std::abort();
  } catch (const std::runtime_error&) {
  }
  return 0;
}
