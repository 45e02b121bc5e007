#pragma once
// Text generation with a cache of keys and values.

#include <functional>
#include <span>
#include <vector>

#include "models/sampling.h"
#include "models/thinker_model.h"

namespace omni {

// One sequence in progress: the ids that the model has seen and their keys and values.
class TextSequence {
 public:
  // Room for `capacity` positions. Device and model must outlive the sequence.
  TextSequence(Device& device, ThinkerModel& model, std::int64_t capacity);

  // Makes the model see `ids` instead of what it saw before; a common beginning is not computed again. Returns the
  // logits [1, vocab_size] of the token that follows, f32 in the device's memory, valid until the next call. Throws
  // std::runtime_error if `ids` is empty, does not fit or holds an id that the model does not know.
  View show(std::span<const std::int32_t> ids);
  // Adds one id, as show() does.
  View append(std::int32_t id);

  Device& device() { return tape_.device(); }
  const std::vector<std::int32_t>& ids() const { return ids_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  View forward(std::size_t first);

  Tape tape_;
  ThinkerModel& model_;
  std::int64_t capacity_;
  std::vector<std::int32_t> ids_;
  std::vector<OwnedTensor> memory_;  // keys and values of every layer
  std::vector<KeyValueCache> caches_;
  OwnedTensor inputs_;  // i64: the position of the first id of a call, the number of positions known then, the ids
  std::vector<std::int64_t> inputs_on_host_;
  OwnedTensor logits_;
  Device::Recurring step_;
};

struct GenerationSettings {
  SamplingSettings sampling;
  std::int64_t max_new_tokens = 8192;
  std::uint64_t seed = 0;
};

// Continues `prompt` until the model's end-of-sequence id, max_new_tokens or the sequence's capacity. Returns the new
// ids, the end-of-sequence id included. on_token is called with each of them; it returns false to stop.
std::vector<std::int32_t> generate(TextSequence& sequence, std::span<const std::int32_t> prompt,
                                   const GenerationSettings& settings, std::int32_t eos_id,
                                   const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace omni
