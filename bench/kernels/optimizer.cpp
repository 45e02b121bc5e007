// What runs over all parameters at once.

#include "bench/kernels/harness.h"
#include "kernels/adamw/adamw.h"
#include "kernels/gradient_norm/gradient_norm.h"

namespace omni::bench {

void add_optimizer_benches() {
  constexpr DType kF32 = DType::f32;
  add("adamw/with_bf16_copy", [](Bench& b, benchmark::State& state) {
    const Shape all{kParameters};
    b.time(state, AdamW{.parameter = b.tensor(kF32, all),
                        .moment1 = b.tensor(kF32, all),
                        .moment2 = b.tensor(kF32, all),
                        .copy = b.tensor(DType::bf16, all),
                        .gradient = b.tensor(kF32, all),
                        .learning_rate = 1e-4});
  });
  add("gradient_norm/f32", [](Bench& b, benchmark::State& state) {
    b.time(state,
           GradientNorm{
               .norm = b.tensor(kF32, {1}), .scale = b.tensor(kF32, {1}), .gradient = b.tensor(kF32, {kParameters})});
  });
}

}  // namespace omni::bench
