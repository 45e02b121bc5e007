#include "models/sampling.h"

#include "kernels/sampling/sampling.h"

namespace omni {

std::int32_t Sampler::next(std::span<float> logits, std::span<const std::int32_t> sequence, Philox& random) {
  const Shape shape{1, static_cast<std::int64_t>(logits.size())};
  std::int64_t token = 0;
  double uniform = 0;
  SampleToken op{.token = view_of(&token, {1}),
                 .logits = view_of(logits.data(), shape),
                 .temperature = settings_.temperature,
                 .repetition_penalty = settings_.repetition_penalty,
                 .top_k = settings_.top_k,
                 .top_p = settings_.top_p,
                 .greedy = settings_.greedy};
  if (settings_.repetition_penalty != 1) {
    seen_.assign(logits.size(), 0);
    for (const std::int32_t id : sequence) seen_.at(static_cast<std::size_t>(id)) = 1;
    op.seen = view_of(seen_.data(), shape);
  }
  if (!settings_.greedy) {
    uniform = random.uniform();
    op.uniform = view_of(&uniform, {1});
  }
  Check check(SampleToken::name);
  op.check(check);
  run(CpuContext{.threads = 1, .workspace = &workspace_}, op);
  return static_cast<std::int32_t>(token);
}

}  // namespace omni
