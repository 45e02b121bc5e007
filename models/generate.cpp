#include "models/generate.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace omni {

TextSequence::TextSequence(Device& device, ThinkerModel& model, std::int64_t capacity)
    : tape_(device, false),
      model_(model),
      capacity_(std::min(capacity, model.config.max_position_embeddings)),
      inputs_(DType::i64, {capacity_ + 2}, device.place()),
      logits_(DType::f32, {1, model.config.vocab_size}, device.place()) {
  const ThinkerConfig& config = model.config;
  const Shape shape{1, capacity_, config.num_key_value_heads, config.head_dim};
  const View starts = slice(inputs_.view(), 0, {1}), lengths = slice(inputs_.view(), 1, {1});
  memory_.reserve(static_cast<std::size_t>(2 * config.num_hidden_layers));
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const View k = memory_.emplace_back(model.store.dtype(), shape, device.place()),
               v = memory_.emplace_back(model.store.dtype(), shape, device.place());
    caches_.push_back({k, v, starts, lengths});
  }
}

View TextSequence::show(std::span<const std::int32_t> ids) {
  if (ids.empty()) throw std::runtime_error("generation: the prompt is empty");
  if (static_cast<std::int64_t>(ids.size()) > capacity_)
    throw std::runtime_error("generation: " + std::to_string(ids.size()) + " tokens do not fit into a context of " +
                             std::to_string(capacity_));
  for (const std::int32_t id : ids)
    if (id < 0 || id >= model_.config.vocab_size)
      throw std::runtime_error("generation: token id " + std::to_string(id) + " is not in the model's vocabulary of " +
                               std::to_string(model_.config.vocab_size));
  // The last id is always computed: its logits are wanted.
  const auto common = std::mismatch(ids.begin(), ids.end() - 1, ids_.begin(), ids_.end());
  const std::size_t first = static_cast<std::size_t>(common.first - ids.begin());
  ids_.assign(ids.begin(), ids.end());
  return forward(first);
}

View TextSequence::append(std::int32_t id) {
  if (static_cast<std::int64_t>(ids_.size()) >= capacity_)
    throw std::runtime_error("generation: the context of " + std::to_string(capacity_) + " tokens is full");
  ids_.push_back(id);
  return forward(ids_.size() - 1);
}

View TextSequence::forward(std::size_t first) {
  const std::int64_t time = static_cast<std::int64_t>(ids_.size() - first),
                     length = static_cast<std::int64_t>(ids_.size());
  inputs_on_host_ = {static_cast<std::int64_t>(first), length};
  inputs_on_host_.insert(inputs_on_host_.end(), ids_.begin() + static_cast<std::ptrdiff_t>(first), ids_.end());
  Device& device = tape_.device();
  device.copy(slice(inputs_.view(), 0, {time + 2}), view_of(inputs_on_host_.data(), {time + 2}));
  const auto compute = [&] {
    tape_.reset();
    // On a GPU the table of angles must not move under a recording.
    const std::int64_t positions = device.is_cpu() ? length : capacity_;
    const Tensor hidden =
        model_.thinker(tape_, slice(inputs_.view(), 2, {1, time}), caches_, positions).hidden;  // [1, time, hidden]
    const View last = slice(static_cast<const View&>(hidden), (time - 1) * hidden.width(), {1, hidden.width()});
    tape_.run(model_.thinker.head_weight().product(logits_, last));
  };
  if (time == 1)
    device.run_recurring(step_, compute);
  else
    compute();
  return logits_.view();
}

std::vector<std::int32_t> generate(TextSequence& sequence, std::span<const std::int32_t> prompt,
                                   const GenerationSettings& settings, std::int32_t eos_id,
                                   const std::function<bool(std::int32_t)>& on_token) {
  Sampler sampler(sequence.device(), settings.sampling);
  Philox random(settings.seed, RandomStream::sampling);
  std::vector<std::int32_t> out;
  View logits = sequence.show(prompt);
  while (static_cast<std::int64_t>(out.size()) < settings.max_new_tokens) {
    out.push_back(sampler.next(logits, sequence.ids(), random));
    const bool more = !on_token || on_token(out.back());
    if (!more || out.back() == eos_id || static_cast<std::int64_t>(sequence.ids().size()) >= sequence.capacity()) break;
    if (static_cast<std::int64_t>(out.size()) < settings.max_new_tokens) logits = sequence.append(out.back());
  }
  return out;
}

}  // namespace omni
