// Instructions that are bound by memory: one pass over rows of activations.

#include "bench/kernels/harness.h"
#include "kernels/activation/activation.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/qk_norm_rope/qk_norm_rope.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/swiglu/swiglu.h"

namespace omni::bench {
namespace {

constexpr DType kF32 = DType::f32, kI64 = DType::i64;
const Shape kX{kRows, kHidden};

void add_elementwise() {
  add_dtypes("fill",
             [](Bench& b, benchmark::State& state, DType t) { b.time(state, Fill{.y = b.tensor(t, kX), .value = 0}); });
  add_dtypes("add", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Add{.y = b.tensor(t, kX), .a = b.tensor(t, kX), .b = b.tensor(t, kX)});
  });
  add_dtypes("scale", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Scale{.y = b.tensor(t, kX), .x = b.tensor(t, kX), .factor = 0.5});
  });
  add("copy/f32_to_bf16", [](Bench& b, benchmark::State& state) {
    b.time(state, Copy{.y = b.tensor(DType::bf16, kX), .x = b.tensor(kF32, kX)});
  });
  add_dtypes("add_bias", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, AddBias{.y = b.tensor(t, kX), .x = b.tensor(t, kX), .bias = b.tensor(kF32, {kHidden})});
  });
  add_dtypes("bias_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, BiasBackward{.dbias = b.tensor(kF32, {kHidden}), .dy = b.tensor(t, kX)});
  });
  add_dtypes("gelu", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Gelu{.y = b.tensor(t, kX), .x = b.tensor(t, kX)});
  });
  add_dtypes("gelu_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, GeluBackward{.dx = b.tensor(t, kX), .dy = b.tensor(t, kX), .x = b.tensor(t, kX)});
  });
  add_dtypes("silu", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Silu{.y = b.tensor(t, kX), .x = b.tensor(t, kX)});
  });
  add_dtypes("silu_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, SiluBackward{.dx = b.tensor(t, kX), .dy = b.tensor(t, kX), .x = b.tensor(t, kX)});
  });
  add_dtypes("swiglu", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, SwiGlu{.y = b.tensor(t, {kRows, kIntermediate}), .gate_up = b.tensor(t, {kRows, 2 * kIntermediate})});
  });
  add_dtypes("swiglu_backward", [](Bench& b, benchmark::State& state, DType t) {
    const Shape packed{kRows, 2 * kIntermediate};
    b.time(state, SwiGluBackward{.dgate_up = b.tensor(t, packed),
                                 .dy = b.tensor(t, {kRows, kIntermediate}),
                                 .gate_up = b.tensor(t, packed)});
  });
}

void add_norms() {
  add_dtypes("rms_norm", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, RmsNorm{.y = b.tensor(t, kX),
                          .rstd = b.tensor(kF32, {kRows}),
                          .x = b.tensor(t, kX),
                          .weight = b.tensor(kF32, {kHidden})});
  });
  add_dtypes("add_rms_norm", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, AddRmsNorm{.sum = b.tensor(t, kX),
                             .y = b.tensor(t, kX),
                             .rstd = b.tensor(kF32, {kRows}),
                             .x = b.tensor(t, kX),
                             .residual = b.tensor(t, kX),
                             .weight = b.tensor(kF32, {kHidden})});
  });
  add_dtypes("rms_norm_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, RmsNormBackward{.dx = b.tensor(t, kX),
                                  .dweight = b.tensor(kF32, {kHidden}),
                                  .dy = b.tensor(t, kX),
                                  .x = b.tensor(t, kX),
                                  .rstd = b.tensor(kF32, {kRows}),
                                  .weight = b.tensor(kF32, {kHidden})});
  });
  add_dtypes("layer_norm", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, LayerNorm{.y = b.tensor(t, kX),
                            .mean = b.tensor(kF32, {kRows}),
                            .rstd = b.tensor(kF32, {kRows}),
                            .x = b.tensor(t, kX),
                            .weight = b.tensor(kF32, {kHidden}),
                            .bias = b.tensor(kF32, {kHidden})});
  });
  add_dtypes("layer_norm_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, LayerNormBackward{.dx = b.tensor(t, kX),
                                    .dweight = b.tensor(kF32, {kHidden}),
                                    .dbias = b.tensor(kF32, {kHidden}),
                                    .dy = b.tensor(t, kX),
                                    .x = b.tensor(t, kX),
                                    .mean = b.tensor(kF32, {kRows}),
                                    .rstd = b.tensor(kF32, {kRows}),
                                    .weight = b.tensor(kF32, {kHidden})});
  });
}

void add_heads() {
  static const Shape q{kBatch, kTime, kHeads, kHeadDim}, kv{kBatch, kTime, kKvHeads, kHeadDim},
      qkv{kBatch, kTime, kQkv}, angles{kTime, kHeadDim / 2};
  add_dtypes("qk_norm_rope", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, QkNormRope{.q = b.tensor(t, q),
                             .k = b.tensor(t, kv),
                             .v = b.tensor(t, kv),
                             .qkv = b.tensor(t, qkv),
                             .q_weight = b.tensor(kF32, {kHeadDim}),
                             .k_weight = b.tensor(kF32, {kHeadDim}),
                             .cosine = b.tensor(kF32, angles),
                             .sine = b.tensor(kF32, angles)});
  });
  add_dtypes("qk_norm_rope_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, QkNormRopeBackward{.dqkv = b.tensor(t, qkv),
                                     .dq_weight = b.tensor(kF32, {kHeadDim}),
                                     .dk_weight = b.tensor(kF32, {kHeadDim}),
                                     .dq = b.tensor(t, q),
                                     .dk = b.tensor(t, kv),
                                     .dv = b.tensor(t, kv),
                                     .qkv = b.tensor(t, qkv),
                                     .q_weight = b.tensor(kF32, {kHeadDim}),
                                     .k_weight = b.tensor(kF32, {kHeadDim}),
                                     .cosine = b.tensor(kF32, angles),
                                     .sine = b.tensor(kF32, angles)});
  });
}

void add_ends() {
  add_dtypes("embedding", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Embedding{.y = b.tensor(t, kX),
                            .table = b.tensor(t, {kVocabulary, kHidden}),
                            .ids = b.integers({kRows}, kVocabulary)});
  });
  add_dtypes("embedding_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, EmbeddingBackward{.dtable = b.tensor(kF32, {kVocabulary, kHidden}),
                                    .dy = b.tensor(t, kX),
                                    .ids = b.integers({kRows}, kVocabulary)});
  });
  add_dtypes("gather_rows", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, GatherRows{.y = b.tensor(t, kX), .x = b.tensor(t, kX), .source = b.integers({kRows}, kRows)});
  });
  add_dtypes("cross_entropy", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, CrossEntropy{.loss = b.tensor(kF32, {1}),
                               .logits = b.tensor(t, {kRows, kVocabulary}),
                               .targets = b.integers({kRows}, kVocabulary)});
  });
}

}  // namespace

void add_row_benches() {
  add_elementwise();
  add_norms();
  add_heads();
  add_ends();
}

}  // namespace omni::bench
