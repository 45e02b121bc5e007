#include "models/saved_order.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace omni {
namespace {

// The parts of names in an order that holds inside of every module, but for the Thinker's embedding, which comes first.
constexpr auto kParts = std::to_array<std::string_view>({"model",
                                                         "text_scale",
                                                         "audio_scale",
                                                         "layers",
                                                         "self_attn",
                                                         "q_proj",
                                                         "k_proj",
                                                         "v_proj",
                                                         "o_proj",
                                                         "q_norm",
                                                         "k_norm",
                                                         "input_layernorm",
                                                         "post_attention_layernorm",
                                                         "mlp",
                                                         "gate",
                                                         "experts",
                                                         "gate_proj",
                                                         "down_proj",
                                                         "up_proj",
                                                         "norm",
                                                         "lm_head",
                                                         "embed_tokens",
                                                         "codec_proj",
                                                         "embed_proj",
                                                         "spk_proj",
                                                         "base",
                                                         "adapters",
                                                         "talker",
                                                         "audio_proj",
                                                         "vision_proj",
                                                         "weight",
                                                         "bias"});
constexpr std::string_view kThinkerEmbedding = "model.embed_tokens.";

// The places of a name's parts; numbers are their own places.
std::vector<std::size_t> place_of(std::string_view name) {
  if (name.starts_with(kThinkerEmbedding)) return {0, 0};
  std::vector<std::size_t> out;
  do {
    const std::string_view part = name.substr(0, name.find('.'));
    name.remove_prefix(std::min(part.size() + 1, name.size()));
    std::size_t place = 0;
    if (part.empty() || std::from_chars(part.data(), part.data() + part.size(), place).ptr != part.end())
      place = static_cast<std::size_t>(std::find(kParts.begin(), kParts.end(), part) - kParts.begin());
    if (place == kParts.size() && out.empty()) return {place};
    out.push_back(place);
  } while (!name.empty());
  return out;
}

}  // namespace

void sort_as_saved(std::vector<NamedView>& tensors) {
  std::vector<std::pair<std::vector<std::size_t>, NamedView>> placed;
  placed.reserve(tensors.size());
  for (NamedView& tensor : tensors) placed.emplace_back(place_of(tensor.name), std::move(tensor));
  std::stable_sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::transform(placed.begin(), placed.end(), tensors.begin(), [](auto& one) { return std::move(one.second); });
}

}  // namespace omni
