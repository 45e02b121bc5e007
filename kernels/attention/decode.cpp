#include "kernels/attention/decode.h"

#include <omp.h>

#include <limits>

#include "kernels/attention/mask.h"
#include "kernels/attention/panels.h"
#include "kernels/simd.h"

namespace omni {
namespace {

// One query of one head. scores [keys] is scratch.
template <class T, class W>
void decode_query(const Attention& op, IndexRange range, W* scores, std::int64_t b, std::int64_t head,
                  std::int64_t query) {
  const std::int64_t head_dim = op.head_dim(), kv_head = head / (op.heads() / op.kv_heads());
  const HeadRows<T> k = head_rows<T>(op.k, b, kv_head), v = head_rows<T>(op.v, b, kv_head);
  const T* q_row = head_rows<T>(op.q, b, head).row(query);
  const W scale = static_cast<W>(op.score_scale());
  W q[Attention::kMaxHeadDim], o[Attention::kMaxHeadDim] = {};
  for (std::int64_t d = 0; d < head_dim; ++d) q[d] = scale * to_float(q_row[d]);
  W maximum = -std::numeric_limits<W>::infinity(), sum = 0;
  for (std::int64_t j = range.begin; j < range.end; ++j) {
    const T* key = k.row(j);
    W score = 0;
#pragma omp simd reduction(+ : score)
    for (std::int64_t d = 0; d < head_dim; ++d) score += q[d] * to_float(key[d]);
    scores[j] = score;
    maximum = std::max(maximum, score);
  }
  for (std::int64_t j = range.begin; j < range.end; ++j) {
    const W p = fast_exp(scores[j] - maximum);
    const T* value = v.row(j);
    sum += p;
#pragma omp simd
    for (std::int64_t d = 0; d < head_dim; ++d) o[d] += p * to_float(value[d]);
  }
  T* to = op.o.as<T>() + ((b * op.queries() + query) * op.heads() + head) * head_dim;
  for (std::int64_t d = 0; d < head_dim; ++d) to[d] = round_to<T>(range.count() > 0 ? o[d] / sum : W{0});
  if (op.lse) op.lse.as<W>()[(b * op.heads() + head) * op.queries() + query] = maximum + std::log(sum);
}

}  // namespace

template <class T>
void attention_decode(const CpuContext& cpu, const Attention& op) {
  using W = Wide<T>;
  const AttentionMaskReader mask = mask_reader(op);
  const auto scratch = cpu.scratch<W>(cpu.threads, op.keys());
  const std::int64_t rows = op.batch() * op.heads() * op.queries();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t query = row % op.queries(), head = row / op.queries() % op.heads();
    const std::int64_t b = row / op.queries() / op.heads();
    decode_query<T, W>(op, mask.keys_of(b, query), scratch.part(omp_get_thread_num()), b, head, query);
  }
}

template void attention_decode<float>(const CpuContext&, const Attention&);
template void attention_decode<bf16>(const CpuContext&, const Attention&);
template void attention_decode<double>(const CpuContext&, const Attention&);

}  // namespace omni
