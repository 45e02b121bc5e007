// What the omni model has besides the Thinker's instructions: eight codebooks, features in the place of tokens, and the
// drawing of text and codes.

#include <type_traits>

#include "bench/kernels/harness.h"
#include "engine/philox.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/groups/groups.h"
#include "kernels/moe/moe.h"
#include "kernels/sampling/sampling.h"
#include "kernels/scaled_sum/scaled_sum.h"
#include "kernels/select_rows/select_rows.h"

namespace omni::bench {
namespace {

constexpr std::int64_t kCodebooks = 8, kCodes = 2112, kRank = 256, kCodeRows = kCodebooks * kRows;
constexpr std::int64_t kPlaceholders = kBatch * 64;  // positions that an image or a sound takes
constexpr DType kF32 = DType::f32;
const Shape kX{kRows, kHidden}, kXOfAll{kCodeRows, kHidden};

// An operand whose elements are value(i).
template <class Value>
View tensor_of(Bench& b, DType dtype, const Shape& shape, const Value& value) {
  using T = std::invoke_result_t<Value, std::int64_t>;
  const OwnedTensor values(dtype, shape);
  for (std::int64_t i = 0; i < shape.count(); ++i) values.as<T>()[i] = value(i);
  return b.copy_of(values);
}

// The first 64 positions of each sequence take features, the others keep their embeddings.
View feature_source(Bench& b) {
  return tensor_of(b, DType::i64, {kRows}, [](std::int64_t row) -> std::int64_t {
    const std::int64_t time = row % kTime, each = kPlaceholders / kBatch;
    return time < each ? row / kTime * each + time : -1;
  });
}

void add_features() {
  add_dtypes("select_rows", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, SelectRows{.y = b.tensor(t, kX),
                             .x = b.tensor(t, kX),
                             .from = b.tensor(t, {kPlaceholders, kHidden}),
                             .source = feature_source(b)});
  });
  add_dtypes("select_rows_backward", [](Bench& b, benchmark::State& state, DType t) {
    const View dy = b.tensor(t, kX);
    b.time(state, SelectRowsBackward{
                      .dx = dy, .dfrom = b.tensor(t, {kPlaceholders, kHidden}), .dy = dy, .source = feature_source(b)});
  });
  add_dtypes("scaled_sum", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, ScaledSum{.y = b.tensor(t, kX),
                            .a = b.tensor(t, kX),
                            .a_scale = b.tensor(kF32, {1}),
                            .b = b.tensor(t, kX),
                            .b_scale = b.tensor(kF32, {1})});
  });
  add_dtypes("scaled_sum_backward", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, ScaledSumBackward{.da = b.tensor(t, kX),
                                    .db = b.tensor(t, kX),
                                    .da_scale = b.tensor(kF32, {1}),
                                    .db_scale = b.tensor(kF32, {1}),
                                    .dy = b.tensor(t, kX),
                                    .a = b.tensor(t, kX),
                                    .a_scale = b.tensor(kF32, {1}),
                                    .b = b.tensor(t, kX),
                                    .b_scale = b.tensor(kF32, {1})});
  });
}

void add_groups_of_rows() {
  add_dtypes("sum_groups", [](Bench& b, benchmark::State& state, DType t) {
    b.time(
        state,
        SumGroups{.y = b.tensor(t, kX), .x = b.tensor(t, kXOfAll), .groups = kCodebooks, .factor = 1.0 / kCodebooks});
  });
  add_dtypes("add_groups", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, AddGroups{.y = b.tensor(t, {kCodeRows, kCodes}),
                            .x = b.tensor(t, {kRows, kCodes}),
                            .groups = kCodebooks,
                            .accumulate = true});
  });
  // The losses of the codebooks have the gradient 1/8 each; a sign keeps the values of any number of executions alike.
  add_dtypes("scale_groups", [](Bench& b, benchmark::State& state, DType t) {
    const View factor = tensor_of(b, kF32, {kCodebooks}, [](std::int64_t) { return -1.f; });
    b.time(state, ScaleGroups{.x = b.tensor(t, {kCodeRows, kCodes}), .factor = factor});
  });
}

void add_embeddings() {
  add_dtypes("embedding/codes", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Embedding{.y = b.tensor(t, kX),
                            .table = b.tensor(t, {kCodes, kHidden}),
                            .ids = b.integers({kCodeRows}, kCodes),
                            .group = kCodebooks,
                            .factor = 1.0 / kCodebooks});
  });
  add_dtypes("embedding_backward/codes", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, EmbeddingBackward{.dtable = b.tensor(kF32, {kCodes, kHidden}),
                                    .dy = b.tensor(t, kX),
                                    .ids = b.integers({kCodeRows}, kCodes),
                                    .group = kCodebooks,
                                    .factor = 1.0 / kCodebooks});
  });
  add_dtypes("embedding/adapters", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, Embedding{.y = b.tensor(t, {kCodeRows, kRank}),
                            .table = b.tensor(t, {kCodebooks * kCodes, kRank}),
                            .ids = b.integers({kCodeRows}, kCodebooks * kCodes)});
  });
  add_dtypes("embedding_backward/adapters", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, EmbeddingBackward{.dtable = b.tensor(kF32, {kCodebooks * kCodes, kRank}),
                                    .dy = b.tensor(t, {kCodeRows, kRank}),
                                    .ids = b.integers({kCodeRows}, kCodebooks * kCodes)});
  });
  add_dtypes("gather_rows/codebooks", [](Bench& b, benchmark::State& state, DType t) {
    const View by_codebook = tensor_of(
        b, DType::i64, {kCodeRows}, [](std::int64_t i) -> std::int64_t { return i % kRows * kCodebooks + i / kRows; });
    b.time(
        state,
        GatherRows{.y = b.tensor(t, {kCodeRows, kRank}), .x = b.tensor(t, {kCodeRows, kRank}), .source = by_codebook});
  });
}

// The adapters of the codebooks: a product for each, over as many rows.
void add_adapters(const std::string& name, std::int64_t out) {
  const auto starts = [](Bench& b) {
    return tensor_of(b, DType::i64, {kCodebooks + 1}, [](std::int64_t q) -> std::int64_t { return q * kRows; });
  };
  add_dtypes("grouped_matmul/" + name, [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, GroupedMatmul{.c = b.tensor(t, {kCodeRows, out}),
                                .a = b.tensor(t, {kCodeRows, kRank}),
                                .b = b.tensor(t, {kCodebooks * out, kRank}),
                                .offset = starts(b)});
  });
  add_dtypes("grouped_matmul/" + name + "_dx", [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, GroupedMatmul{.c = b.tensor(t, {kCodeRows, kRank}),
                                .a = b.tensor(t, {kCodeRows, out}),
                                .b = b.tensor(t, {kCodebooks * out, kRank}),
                                .offset = starts(b),
                                .transpose_b = false});
  });
  add_dtypes("grouped_matmul_weight_gradient/" + name, [=](Bench& b, benchmark::State& state, DType t) {
    b.time(state, GroupedMatmulWeightGradient{.dw = b.tensor(kF32, {kCodebooks * out, kRank}),
                                              .dy = b.tensor(t, {kCodeRows, out}),
                                              .x = b.tensor(t, {kCodeRows, kRank}),
                                              .offset = starts(b)});
  });
}

void add_losses() {
  add_dtypes("cross_entropy/codes", [](Bench& b, benchmark::State& state, DType t) {
    b.time(state, CrossEntropy{.loss = b.tensor(kF32, {kCodebooks}),
                               .logits = b.tensor(t, {kCodeRows, kCodes}),
                               .targets = b.integers({kCodeRows}, kCodes),
                               .weights = b.tensor(kF32, {kCodeRows}),
                               .hits = b.tensor(kF32, {kCodeRows})});
  });
}

// The temperature is 1, so that the logits stay what they are however often they are drawn from.
SampleToken drawing(Bench& b, std::int64_t rows, std::int64_t classes) {
  Philox random(1, RandomStream::test);
  return {.token = b.integers({rows}, 1),
          .logits = tensor_of(b, kF32, {rows, classes},
                              [&](std::int64_t) { return static_cast<float>(3 * random.normal()); }),
          .uniform = tensor_of(b, DType::f64, {rows}, [&](std::int64_t) { return random.uniform(); })};
}

void add_sampling() {
  add("sample_token/text", [](Bench& b, benchmark::State& state) {
    SampleToken op = drawing(b, 1, kVocabulary);
    op.top_p = 0.85;
    b.time(state, op);
  });
  add("sample_token/codes", [](Bench& b, benchmark::State& state) {
    SampleToken op = drawing(b, kCodebooks, kCodes);
    op.top_k = 50;
    b.time(state, op);
  });
  add("sample_token/codes_of_16_conversations", [](Bench& b, benchmark::State& state) {
    SampleToken op = drawing(b, 16 * kCodebooks, kCodes);
    op.top_k = 50;
    b.time(state, op);
  });
}

}  // namespace

void add_omni_benches() {
  add_features();
  add_groups_of_rows();
  add_embeddings();
  add_adapters("code_logits", kCodes);
  add_adapters("code_embedding", kHidden);
  add_losses();
  add_sampling();
}

}  // namespace omni::bench
