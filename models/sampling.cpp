#include "models/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace omni {

std::int32_t Sampler::next(std::span<float> logits, std::span<const std::int32_t> sequence, Philox& random) {
  for (float& logit : logits) {
    if (std::isnan(logit)) throw std::runtime_error("sampling: a logit is not a number; the weights may be damaged");
    logit /= static_cast<float>(settings_.temperature);
  }
  penalize_repetition(logits, sequence);
  if (settings_.greedy)
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  return draw(logits, random);
}

void Sampler::penalize_repetition(std::span<float> logits, std::span<const std::int32_t> sequence) {
  if (settings_.repetition_penalty == 1) return;
  const float penalty = static_cast<float>(settings_.repetition_penalty);
  seen_.assign(logits.size(), 0);
  for (const std::int32_t id : sequence) {
    char& seen = seen_.at(static_cast<std::size_t>(id));
    float& logit = logits[static_cast<std::size_t>(id)];
    if (!seen) logit = logit > 0 ? logit / penalty : logit * penalty;
    seen = 1;
  }
}

std::int32_t Sampler::draw(std::span<const float> logits, Philox& random) {
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  const std::size_t k = static_cast<std::size_t>(settings_.top_k);
  if (k > 0 && k < order_.size()) {
    std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(k - 1), order_.end(), before);
    const float least = logit(order_[k - 1]);
    order_.erase(std::partition(order_.begin(), order_.end(), [&](std::int32_t id) { return logit(id) >= least; }),
                 order_.end());
  }
  std::sort(order_.begin(), order_.end(), before);
  probabilities_.clear();
  double sum = 0;
  for (const std::int32_t id : order_) {
    probabilities_.push_back(std::exp(static_cast<double>(logit(id)) - static_cast<double>(logit(order_[0]))));
    sum += probabilities_.back();
  }
  // A token stays while the probability of those before it does not exceed top_p; the first always stays.
  std::size_t kept = probabilities_.size();
  if (settings_.top_p < 1) {
    double before_it = 0;
    for (std::size_t i = 0; i < kept; ++i) {
      if (i > 0 && before_it > settings_.top_p) kept = i;
      before_it += probabilities_[i] / sum;
    }
  }
  double rest =
      std::accumulate(probabilities_.begin(), probabilities_.begin() + static_cast<std::ptrdiff_t>(kept), 0.0) *
      random.uniform();
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    rest -= probabilities_[i];
    if (rest < 0) return order_[i];
  }
  return order_[kept - 1];
}

}  // namespace omni
