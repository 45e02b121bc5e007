// The mixture of experts: four of them, one per token.

#include "kernels/moe/moe.h"

#include "bench/kernels/baselines/baseline.h"

namespace omni::bench {
namespace {

constexpr std::int64_t kTopK = 1, kGateUp = 2 * kIntermediate;
constexpr DType kF32 = DType::f32, kI64 = DType::i64;

// A routing that a router has made, from equal logits with one expert preferred in turn.
struct Routed {
  View probability, weight, expert, slot, source, offset, aux_loss, logits;

  Routed(Bench& b, DType t)
      : probability(b.tensor(kF32, {kRows, kExperts})),
        weight(b.tensor(kF32, {kRows, kTopK})),
        expert(b.integers({kRows, kTopK}, 1)),
        slot(b.integers({kRows, kTopK}, 1)),
        source(b.integers({moe_capacity(kRows * kTopK, kExperts)}, 1)),
        offset(b.integers({kExperts + 1}, 1)),
        aux_loss(b.tensor(kF32, {1})),
        logits(b.tensor(t, {kRows, kExperts})) {
    const OwnedTensor values(kF32, logits.shape);
    for (std::int64_t row = 0; row < kRows; ++row) values.as<float>()[row * kExperts + row % kExperts] = 1;
    const OwnedTensor converted(t, logits.shape);
    dispatch(t, [&]<class T>() {
      for (std::int64_t i = 0; i < logits.count(); ++i) converted.as<T>()[i] = round_to<T>(values.as<float>()[i]);
    });
    b.device().copy(logits, converted);
    b.device().run(instruction());
  }
  MoeRoute instruction() const {
    return {.probability = probability,
            .weight = weight,
            .expert = expert,
            .slot = slot,
            .source = source,
            .offset = offset,
            .aux_loss = aux_loss,
            .logits = logits,
            .coefficient = 5e-4};
  }
  std::int64_t capacity() const { return source.count(); }
};

void add_products(const std::string& name, std::int64_t out, std::int64_t in) {
  add_beside_cublas("grouped_matmul/" + name, [=](Bench& b, DType t) {
    const Routed routed(b, t);
    return GroupedMatmul{.c = b.tensor(t, {routed.capacity(), out}),
                         .a = b.tensor(t, {routed.capacity(), in}),
                         .b = b.tensor(t, {kExperts * out, in}),
                         .offset = routed.offset};
  });
  add_beside_cublas("grouped_matmul/" + name + "_dx", [=](Bench& b, DType t) {
    const Routed routed(b, t);
    return GroupedMatmul{.c = b.tensor(t, {routed.capacity(), in}),
                         .a = b.tensor(t, {routed.capacity(), out}),
                         .b = b.tensor(t, {kExperts * out, in}),
                         .offset = routed.offset,
                         .transpose_b = false};
  });
  add_beside_cublas("grouped_matmul_weight_gradient/" + name, [=](Bench& b, DType t) {
    const Routed routed(b, t);
    return GroupedMatmulWeightGradient{.dw = b.tensor(kF32, {kExperts * out, in}),
                                       .dy = b.tensor(t, {routed.capacity(), out}),
                                       .x = b.tensor(t, {routed.capacity(), in}),
                                       .offset = routed.offset};
  });
}

}  // namespace

void add_moe_benches() {
  add_dtypes("moe_route",
             [](Bench& b, benchmark::State& state, DType t) { b.time(state, Routed(b, t).instruction()); });
  add_dtypes("moe_route_backward", [](Bench& b, benchmark::State& state, DType t) {
    const Routed routed(b, t);
    b.time(state, MoeRouteBackward{.dlogits = b.tensor(t, {kRows, kExperts}),
                                   .dweight = b.tensor(kF32, {kRows, kTopK}),
                                   .daux_loss = b.tensor(kF32, {1}),
                                   .probability = routed.probability,
                                   .weight = routed.weight,
                                   .expert = routed.expert,
                                   .coefficient = 5e-4});
  });
  add_dtypes("moe_gather_backward", [](Bench& b, benchmark::State& state, DType t) {
    const Routed routed(b, t);
    b.time(state, MoeGatherBackward{.dx = b.tensor(t, {kRows, kHidden}),
                                    .dy = b.tensor(t, {routed.capacity(), kHidden}),
                                    .slot = routed.slot});
  });
  add_dtypes("moe_combine", [](Bench& b, benchmark::State& state, DType t) {
    const Routed routed(b, t);
    b.time(state, MoeCombine{.y = b.tensor(t, {kRows, kHidden}),
                             .x = b.tensor(t, {routed.capacity(), kHidden}),
                             .weight = routed.weight,
                             .slot = routed.slot});
  });
  add_dtypes("moe_combine_backward", [](Bench& b, benchmark::State& state, DType t) {
    const Routed routed(b, t);
    b.time(state, MoeCombineBackward{.dx = b.tensor(t, {routed.capacity(), kHidden}),
                                     .dweight = b.tensor(kF32, {kRows, kTopK}),
                                     .dy = b.tensor(t, {kRows, kHidden}),
                                     .x = b.tensor(t, {routed.capacity(), kHidden}),
                                     .weight = routed.weight,
                                     .slot = routed.slot});
  });
  add_products("gate_up", kGateUp, kHidden);
  add_products("down", kHidden, kIntermediate);
}

}  // namespace omni::bench
