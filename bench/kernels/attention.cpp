// Attention: training, a prompt, and one token against a cache.

#include "kernels/attention/attention.h"

#include "bench/kernels/baselines/baseline.h"

namespace omni::bench {
namespace {

const Shape kQ{kBatch, kTime, kHeads, kHeadDim}, kKv{kBatch, kTime, kKvHeads, kHeadDim}, kLse{kBatch, kHeads, kTime};

void add_variant(const std::string& variant, const AttentionMask& mask) {
  add_beside_cudnn("attention/" + variant, [=](Bench& b, DType t) {
    return Attention{.o = b.tensor(t, kQ),
                     .lse = b.tensor(DType::f32, kLse),
                     .q = b.tensor(t, kQ),
                     .k = b.tensor(t, kKv),
                     .v = b.tensor(t, kKv),
                     .mask = mask};
  });
  add_beside_cudnn("attention_backward/" + variant, [=](Bench& b, DType t) {
    return AttentionBackward{.dq = b.tensor(t, kQ),
                             .dk = b.tensor(t, kKv),
                             .dv = b.tensor(t, kKv),
                             .do_ = b.tensor(t, kQ),
                             .o = b.tensor(t, kQ),
                             .lse = b.tensor(DType::f32, kLse),
                             .q = b.tensor(t, kQ),
                             .k = b.tensor(t, kKv),
                             .v = b.tensor(t, kKv),
                             .mask = mask};
  });
}

}  // namespace

void add_attention_benches() {
  add_variant("causal", {.causal = true});
  add_variant("bidirectional", {.causal = false});
  add_variant("window_128", {.causal = true, .window = 128});
  for (const std::int64_t context : {512, 4096})
    add_beside_cudnn("attention/decode_" + std::to_string(context), [=](Bench& b, DType t) {
      const Shape cache{1, context, kKvHeads, kHeadDim};
      const View o = b.tensor(t, {1, 1, kHeads, kHeadDim});
      // Its position is the last one, so it sees all keys.
      return Attention{.o = o,
                       .q = b.tensor(t, o.shape),
                       .k = b.tensor(t, cache),
                       .v = b.tensor(t, cache),
                       .mask = {.causal = false}};
    });
}

}  // namespace omni::bench
