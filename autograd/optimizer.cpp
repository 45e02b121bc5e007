#include "autograd/optimizer.h"

#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/gradient_norm/gradient_norm.h"
#include "kernels/rounding.h"

namespace omni {
AdamWOptimizer::AdamWOptimizer(ParameterStore& store)
    : store_(store),
      moment1_(DType::f32, store.master().shape, store.device().place()),
      moment2_(DType::f32, store.master().shape, store.device().place()),
      norm_(DType::f32, {1}, store.device().place()),
      scale_(DType::f32, {1}, store.device().place()) {}

float AdamWOptimizer::step(double learning_rate, double max_norm) {
  Device& device = store_.device();
  store_.complete_gradients();
  device.run(GradientNorm{.norm = norm_, .scale = scale_, .gradient = store_.gradient(), .max_norm = max_norm});
  const auto update = [&](std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    device.run(AdamW{.parameter = slice(store_.master(), begin, {end - begin}),
                     .moment1 = slice(moment1_.view(), begin, {end - begin}),
                     .moment2 = slice(moment2_.view(), begin, {end - begin}),
                     .copy = slice(store_.copy(), begin, {end - begin}),
                     .gradient = slice(store_.gradient(), begin, {end - begin}),
                     .gradient_scale = scale_,
                     .learning_rate = learning_rate,
                     .step = steps_ + 1});
  };
  // Neighbouring trainable parameters are one range, so with nothing frozen this is a single call.
  std::int64_t begin = 0, end = 0;
  for (const Parameter& parameter : store_.parameters()) {
    if (parameter.trainable) continue;
    end = store_.offset_of(parameter);
    update(begin, end);
    begin = end + round_up(parameter.master.count(), kParameterAlignment);
  }
  update(begin, store_.master().count());
  const float norm = device.read<float>(norm_);
  if (!std::isfinite(norm)) return norm;  // AdamW has seen it, too, and changed nothing
  ++steps_;
  store_.forget_gradients();
  return norm;
}

}  // namespace omni
