#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace omni {
namespace {

// The factor by which YaRN scales each frequency: 1 for fast ones, 1 / factor for slow ones, a ramp in between.
void stretch(std::vector<float>& frequencies, std::int64_t head_dim, double theta, const YarnScaling& yarn) {
  const auto pair_of_rotations = [&](double rotations) {
    return static_cast<double>(head_dim) *
           std::log(static_cast<double>(yarn.original_max_position_embeddings) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(pair_of_rotations(yarn.beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_of_rotations(yarn.beta_slow)), static_cast<double>(head_dim / 2 - 1));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp =
        static_cast<float>(std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0));
    frequencies[i] *= 1 - ramp + ramp / static_cast<float>(yarn.factor);
  }
}

template <class W>
void fill(W* cosine, W* sine, std::int64_t positions, const std::vector<float>& frequencies, float factor) {
  const std::int64_t half = static_cast<std::int64_t>(frequencies.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t p = 0; p < positions; ++p)
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[static_cast<std::size_t>(i)];
      cosine[p * half + i] = std::cos(angle) * factor;
      sine[p * half + i] = std::sin(angle) * factor;
    }
}

}  // namespace

RopeTable::RopeTable(std::int64_t head_dim, double theta, std::int64_t max_positions,
                     const std::optional<YarnScaling>& yarn)
    : max_positions_(max_positions) {
  for (std::int64_t i = 0; i < head_dim / 2; ++i)
    frequencies_.push_back(
        1.f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(head_dim)));
  if (yarn && max_positions > yarn->original_max_position_embeddings) {
    stretch(frequencies_, head_dim, theta, *yarn);
    attention_factor_ = static_cast<float>(yarn->attention_factor);
  }
}

RopeAngles RopeTable::angles(Device& device, std::int64_t positions, DType dtype) {
  if (positions > max_positions_)
    throw std::runtime_error("sequence of " + std::to_string(positions) +
                             " positions: the model's max_position_embeddings is " + std::to_string(max_positions_));
  const View& have = cosine_.view();
  if (!have || have.shape[0] < positions || have.dtype != dtype) {
    // Doubling keeps the number of recomputations of a growing conversation small.
    const std::int64_t rows =
        std::min(max_positions_, std::max<std::int64_t>({positions, 256, have ? 2 * have.shape[0] : 0}));
    const Shape shape{rows, static_cast<std::int64_t>(frequencies_.size())};
    const OwnedTensor cosine(dtype, shape), sine(dtype, shape);
    if (dtype == DType::f64)
      fill(cosine.as<double>(), sine.as<double>(), rows, frequencies_, attention_factor_);
    else
      fill(cosine.as<float>(), sine.as<float>(), rows, frequencies_, attention_factor_);
    cosine_ = OwnedTensor(dtype, shape, device.place());
    sine_ = OwnedTensor(dtype, shape, device.place());
    device.copy(cosine_, cosine);
    device.copy(sine_, sine);
  }
  return {cosine_, sine_};
}

}  // namespace omni
