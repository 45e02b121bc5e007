#include "kernels/attention/attention.h"

#include "kernels/attention/amx.h"
#include "kernels/attention/blocks.h"
#include "kernels/attention/decode.h"

namespace omni {
namespace {

// Pairs of query and key that are not masked, for the cost. Arrays in a GPU's memory are not read: as if the keys were
// all there and the queries the last ones.
std::int64_t visible_pairs(const Attention& op) {
  AttentionMaskReader mask = mask_reader(op);
  const std::vector<std::int64_t> last(static_cast<std::size_t>(op.batch()), op.keys() - op.queries());
  if (op.mask.lengths.place == Place::cuda) mask.lengths = nullptr;
  if (op.mask.starts.place == Place::cuda) mask.starts = last.data();
  std::int64_t pairs = 0;
  for (std::int64_t b = 0; b < op.batch(); ++b)
    for (std::int64_t i = 0; i < op.queries(); ++i) pairs += mask.keys_of(b, i).count();
  return pairs * op.heads();
}

void check_forward(Check& that, const Attention& op) {
  that.rank("q", op.q, 4);
  that.rank("k", op.k, 4);
  that.operand("k", op.k, op.q.dtype, {op.batch(), op.keys(), op.kv_heads(), op.head_dim()});
  that.operand("v", op.v, op.q.dtype, op.k.shape);
  that.that(op.head_dim() >= 1 && op.head_dim() <= Attention::kMaxHeadDim, "head_dim must be from 1 to 128");
  that.that(op.kv_heads() >= 1 && op.heads() % op.kv_heads() == 0, "heads must be a multiple of kv_heads");
  that.optional("lengths", op.mask.lengths, DType::i64, {op.batch()});
  that.optional("starts", op.mask.starts, DType::i64, {op.batch()});
}

}  // namespace

void Attention::check(Check& that) const {
  check_forward(that, *this);
  that.operand("o", o, q.dtype, q.shape);
  that.optional("lse", lse, wide(), {batch(), heads(), queries()});
}

Work Attention::work() const {
  return {.bytes = 2 * q.bytes() + k.bytes() + v.bytes() + lse.bytes(),
          .flops = 4 * visible_pairs(*this) * head_dim(),
          .unit = q.dtype};
}

void AttentionBackward::check(Check& that) const {
  const Attention op = forward();
  check_forward(that, op);
  that.same("do, o, q, dq", do_, o, q, dq);
  that.same("dk, dv, k, v", dk, dv, k, v);
  that.operand("lse", lse, op.wide(), {op.batch(), op.heads(), op.queries()});
}

Work AttentionBackward::work() const {
  return {.bytes = 4 * q.bytes() + 4 * k.bytes() + lse.bytes(),
          .flops = 10 * visible_pairs(forward()) * forward().head_dim(),
          .unit = q.dtype};
}

void run(const CpuContext& cpu, const Attention& op) {
  if (op.q.count() == 0) return;
  dispatch(op.q.dtype, [&]<class T>() {
    if (op.queries() <= kDecodeQueries)
      attention_decode<T>(cpu, op);
    else if (!amx_attention(cpu, op))
      attention_forward_blocks<T>(cpu, op);
  });
}

void run(const CpuContext& cpu, const AttentionBackward& op) {
  if (amx_attention_backward(cpu, op)) return;
  dispatch(op.q.dtype, [&]<class T>() { attention_backward_blocks<T>(cpu, op); });
}

}  // namespace omni
