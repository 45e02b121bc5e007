#include "models/sampling.h"

#include "kernels/sampling/sampling.h"

namespace omni {

Sampler::Sampler(Device& device, const SamplingSettings& settings)
    : device_(device),
      settings_(settings),
      token_(DType::i64, {1}, device.place()),
      uniform_(DType::f64, {1}, device.place()) {}

std::int32_t Sampler::next(const View& logits, std::span<const std::int32_t> sequence, Philox& random) {
  SampleToken op{.token = token_,
                 .logits = logits,
                 .temperature = settings_.temperature,
                 .repetition_penalty = settings_.repetition_penalty,
                 .top_k = settings_.top_k,
                 .top_p = settings_.top_p,
                 .greedy = settings_.greedy};
  if (settings_.repetition_penalty != 1) {
    if (seen_.view().count() != logits.count()) seen_ = OwnedTensor(DType::u8, logits.shape, device_.place());
    seen_on_host_.assign(static_cast<std::size_t>(logits.count()), 0);
    for (const std::int32_t id : sequence) seen_on_host_.at(static_cast<std::size_t>(id)) = 1;
    device_.copy(seen_, view_of(seen_on_host_.data(), logits.shape));
    op.seen = seen_;
  }
  if (!settings_.greedy) {
    const double uniform = random.uniform();
    device_.copy(uniform_, view_of(&uniform, {1}));
    op.uniform = uniform_;
  }
  device_.run(op);
  return static_cast<std::int32_t>(device_.read<std::int64_t>(token_));
}

}  // namespace omni
