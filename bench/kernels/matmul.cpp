// The model's matrix products: forward, and the gradients of input and weight.

#include "kernels/matmul/matmul.h"

#include "bench/kernels/harness.h"

namespace omni::bench {
namespace {

// y [rows, out] = x [rows, in] W^T
void add_linear(const std::string& name, std::int64_t rows, std::int64_t out, std::int64_t in, bool gradients) {
  add_dtypes("matmul/" + name, [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Matmul{.c = b.tensor(t, {rows, out}),
                         .a = b.tensor(t, {rows, in}),
                         .b = b.tensor(t, {out, in}),
                         .transpose_b = true});
  });
  if (!gradients) return;
  add_dtypes("matmul/" + name + "_dx", [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Matmul{.c = b.tensor(t, {rows, in}), .a = b.tensor(t, {rows, out}), .b = b.tensor(t, {out, in})});
  });
  add_dtypes("matmul/" + name + "_dw", [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Matmul{.c = b.tensor(DType::f32, {out, in}),
                         .a = b.tensor(t, {rows, out}),
                         .b = b.tensor(t, {rows, in}),
                         .transpose_a = true});
  });
}

// y [1, out] = x [1, in] W^T with W packed
void add_packed(const std::string& name, std::int64_t out, std::int64_t in) {
  const auto body = [=](Bench& b, benchmark::State& state) {
    const View w = b.tensor(DType::bf16, {out, in});
    const PackedWeights packed(w);
    b.time(state, Matmul{.c = b.tensor(DType::bf16, {1, out}),
                         .a = b.tensor(DType::bf16, {1, in}),
                         .b = w,
                         .b_packed = packed.view(),
                         .transpose_b = true});
  };
  add("matmul/" + name + "/packed", body, RunsOn::cpu);
}

}  // namespace

void add_matmul_benches() {
  add_linear("qkv", kRows, kQkv, kHidden, true);
  add_linear("attention_output", kRows, kHidden, kHeads * kHeadDim, true);
  add_linear("gate_up", kRows, 2 * kIntermediate, kHidden, true);
  add_linear("down", kRows, kHidden, kIntermediate, true);
  add_linear("head", kRows, kVocabulary, kHidden, true);
  add_linear("gate_up_of_one_token", 1, 2 * kIntermediate, kHidden, false);
  add_linear("head_of_one_token", 1, kVocabulary, kHidden, false);
  add_packed("gate_up_of_one_token", 2 * kIntermediate, kHidden);
  add_packed("head_of_one_token", kVocabulary, kHidden);
}

}  // namespace omni::bench
