#include "trainers/step_losses.h"

#include <cmath>

#include "kernels/elementwise/elementwise.h"

namespace omni {

StepLosses::StepLosses(const TrainingTask& task, std::int64_t passes, Device& device)
    : task_(task),
      device_(device),
      width_(static_cast<std::int64_t>(task.loss_names().size() + task.hit_names().size())),
      values_(DType::f32, {passes, width_}, device.place()),
      on_host_(static_cast<std::size_t>(passes * width_)),
      targets_(task.hit_names().size()) {}

void StepLosses::begin_step() {
  entries_.clear();
  targets_.assign(targets_.size(), 0);
  device_.run(Fill{.y = values_, .value = 0});
}

void StepLosses::add(const TrainingTask::Pass& pass, double weight, std::int64_t position) {
  std::int64_t at = static_cast<std::int64_t>(entries_.size()) * width_;
  const auto keep = [&](const Tensor& numbers, std::int64_t count) {
    if (numbers) device_.copy(slice(values_.view(), at, {count}), Tape::reshaped(numbers, {count}));
    at += count;
  };
  for (const Tensor& loss : pass.losses) keep(loss, loss ? loss.count() : 1);
  keep(pass.hits, static_cast<std::int64_t>(targets_.size()));
  entries_.push_back({weight, position});
}

void StepLosses::add_targets(const Batch& batch) {
  const std::vector<double> totals = task_.hit_totals(batch);
  for (std::size_t i = 0; i < totals.size(); ++i) targets_[i] += totals[i];
}

StepLosses::Result StepLosses::finish(Ranks& ranks) {
  device_.copy(view_of(on_host_.data(), values_.view().shape), values_);
  const std::size_t losses = task_.loss_names().size(), hits = targets_.size();
  std::vector<double> sums(losses + 2 * hits, 0);
  Result out;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const float* values = on_host_.data() + i * static_cast<std::size_t>(width_);
    for (std::size_t k = 0; k < losses; ++k) sums[k] += entries_[i].weight * static_cast<double>(values[k]);
    for (std::size_t k = losses; k < losses + hits; ++k) sums[k] += static_cast<double>(values[k]);
    if (out.not_finite < 0 && !std::isfinite(values[0])) out.not_finite = entries_[i].position;
  }
  std::copy(targets_.begin(), targets_.end(), sums.end() - static_cast<std::ptrdiff_t>(hits));
  // A process with a bad loss stops; the others learn of it when they wait for it.
  if (out.not_finite < 0) ranks.sum(sums, "losses of a step");
  for (std::size_t k = 0; k < losses; ++k) out.values.emplace_back(task_.loss_names()[k], sums[k]);
  for (std::size_t k = 0; k < hits; ++k)
    if (sums[losses + hits + k] > 0)
      out.values.emplace_back(task_.hit_names()[k], sums[losses + k] / sums[losses + hits + k]);
  return out;
}

}  // namespace omni
