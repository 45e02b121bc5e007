#include "autograd/optimizer.h"

#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/gradient_norm/gradient_norm.h"

namespace omni {
namespace {

View range(const View& block, std::int64_t begin, std::int64_t end) {
  if (!block) return {};
  return {{static_cast<std::byte*>(block.data) + begin * static_cast<std::int64_t>(size_of(block.dtype)), block.dtype,
           Shape{end - begin}}};
}

}  // namespace

AdamWOptimizer::AdamWOptimizer(Device& device, ParameterStore& store)
    : device_(device),
      store_(store),
      moment1_(DType::f32, store.master().shape),
      moment2_(DType::f32, store.master().shape),
      norm_(DType::f32, {1}),
      scale_(DType::f32, {1}) {}

float AdamWOptimizer::step(double learning_rate, double max_norm) {
  store_.complete_gradients(device_);
  device_.run(GradientNorm{.norm = norm_, .scale = scale_, .gradient = store_.gradient(), .max_norm = max_norm});
  const float norm = *norm_.as<float>();
  if (!std::isfinite(norm)) return norm;
  ++steps_;
  const auto update = [&](std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    device_.run(AdamW{.parameter = range(store_.master(), begin, end),
                      .moment1 = range(moment1_, begin, end),
                      .moment2 = range(moment2_, begin, end),
                      .copy = range(store_.copy(), begin, end),
                      .gradient = range(store_.gradient(), begin, end),
                      .gradient_scale = scale_,
                      .learning_rate = learning_rate,
                      .step = steps_});
  };
  // Neighbouring trainable parameters are one range, so with nothing frozen this is a single call.
  std::int64_t begin = 0, end = 0;
  for (const Parameter& parameter : store_.parameters()) {
    if (parameter.trainable) continue;
    end = store_.offset_of(parameter);
    update(begin, end);
    begin = end + (parameter.master.count() + 63) / 64 * 64;
  }
  update(begin, store_.master().count());
  store_.forget_gradients();
  return norm;
}

}  // namespace omni
