#include "autograd/gradient_sum.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"

namespace omni {

GradientSum::GradientSum(Ranks& ranks, ParameterStore& store, const std::vector<const Parameter*>& milestones)
    : ranks_(ranks), store_(store), offsets_{0} {
  for (const Parameter* milestone : milestones) offsets_.push_back(store.offset_of(*milestone));
  std::sort(offsets_.begin(), offsets_.end(), std::greater<>());
  offsets_.erase(std::unique(offsets_.begin(), offsets_.end()), offsets_.end());
}

void GradientSum::send_down_to(std::int64_t offset) {
  for (; next_ < offsets_.size() && offsets_[next_] >= offset; ++next_) {
    const std::int64_t begin = offsets_[next_], end = next_ == 0 ? store_.gradient().count() : offsets_[next_ - 1];
    for (Parameter& parameter : store_.parameters()) {
      const std::int64_t at = store_.offset_of(parameter);
      if (at < begin || at >= end || parameter.has_gradient) continue;
      store_.device().run(Fill{.y = parameter.gradient, .value = 0});
      parameter.has_gradient = true;  // of the other processes
    }
    ranks_.begin_sum(slice(store_.gradient(), begin, {end - begin}));
  }
}

void GradientSum::reached(const Parameter& milestone) { send_down_to(store_.offset_of(milestone)); }

void GradientSum::finish() {
  send_down_to(0);
  ranks_.finish_sums();
  next_ = 0;
}

}  // namespace omni
