#include <omp.h>

#include "kernels/attention/blocks.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/attention/panels.h"
#include "kernels/simd.h"

namespace omni {
namespace {

// The memory of one task: a key-value head of a sequence with the query heads that read it.
template <class W>
struct Task {
  // Keys, padded to whole blocks: [keys, width], or transposed per block [keys / kKeyBlock][head_dim][kKeyBlock].
  W *k, *k_transposed, *v_transposed, *dk, *dv;
  // The query head at hand: [queries, width].
  W *q, *d_out, *dq;
  W* row_sums;  // [queries]: sum over head_dim of do * o
  W *p, *ds;    // [kQueryBlock, kKeyBlock]
};

template <class W>
std::int64_t task_size(const Attention& op) {
  const std::int64_t width = Carver<W>::padded(op.head_dim()), keys = round_up(op.keys(), kKeyBlock);
  return 3 * keys * width + 2 * keys * op.head_dim() + op.queries() * (3 * width) + Carver<W>::padded(op.queries()) +
         2 * kQueryBlock * kKeyBlock;
}

template <class W>
Task<W> carve_task(W* memory, const Attention& op) {
  const std::int64_t width = Carver<W>::padded(op.head_dim()), keys = round_up(op.keys(), kKeyBlock);
  Carver<W> carver(memory);
  Task<W> task{};
  for (W** panel : {&task.k, &task.dk, &task.dv}) *panel = carver.take(keys * width);
  for (W** panel : {&task.k_transposed, &task.v_transposed}) *panel = carver.take(keys * op.head_dim());
  for (W** panel : {&task.q, &task.d_out, &task.dq}) *panel = carver.take(op.queries() * width);
  task.row_sums = carver.take(op.queries());
  for (W** tile : {&task.p, &task.ds}) *tile = carver.take(kQueryBlock * kKeyBlock);
  return task;
}

// p: scores become probabilities; ds: do v^T becomes the gradient of the scores. Zero where masked.
template <class W>
void score_gradient_row(W* p, W* ds, W scale, W lse, W row_sum, std::int64_t begin, std::int64_t end,
                        std::int64_t columns) {
  const IndexRange whole = whole_vectors<W>(begin, end, columns);
  for (W* row : {p, ds}) {
    std::fill(row, row + whole.begin, W{0});
    std::fill(row + whole.end, row + columns, W{0});
  }
#pragma omp simd
  for (std::int64_t j = whole.begin; j < whole.end; ++j) {
    const bool sees = j >= begin && j < end;
    const W weight = fast_exp(p[j] * scale - lse), gradient = weight * (ds[j] - row_sum) * scale;
    p[j] = sees ? weight : 0;
    ds[j] = sees ? gradient : 0;
  }
}

// All of one query head: its dq, and its share of dk and dv.
template <class W>
void backward_head(const Attention& op, const AttentionMaskReader& mask, const Task<W>& task, const W* lse,
                   std::int64_t b) {
  const std::int64_t head_dim = op.head_dim(), width = Carver<W>::padded(head_dim);
  const W scale = static_cast<W>(op.score_scale());
  for (std::int64_t first = 0; first < op.queries(); first += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, op.queries() - first);
    const W *q = task.q + first * width, *d_out = task.d_out + first * width;
    const std::int64_t begin = mask.keys_of(b, first).begin, end = mask.keys_of(b, first + rows - 1).end;
    for (std::int64_t key = begin / kKeyBlock * kKeyBlock; key < end; key += kKeyBlock) {
      const std::int64_t depth = std::min(kKeyBlock, end - key), columns = round_up(depth, Lanes<W>::count);
      tile_product<W>(task.p, kKeyBlock, {q, width, 1}, task.k_transposed + key * head_dim, kKeyBlock, rows, columns,
                      head_dim, false);
      tile_product<W>(task.ds, kKeyBlock, {d_out, width, 1}, task.v_transposed + key * head_dim, kKeyBlock, rows,
                      columns, head_dim, false);
      for (std::int64_t r = 0; r < rows; ++r) {
        const IndexRange range = mask.keys_of(b, first + r);
        score_gradient_row(task.p + r * kKeyBlock, task.ds + r * kKeyBlock, scale, lse[first + r],
                           task.row_sums[first + r], std::max<std::int64_t>(range.begin - key, 0),
                           std::min(range.end - key, kKeyBlock), columns);
      }
      tile_product<W>(task.dv + key * width, width, {task.p, 1, kKeyBlock}, d_out, width, depth, width, rows, true);
      tile_product<W>(task.dk + key * width, width, {task.ds, 1, kKeyBlock}, q, width, depth, width, rows, true);
      tile_product<W>(task.dq + first * width, width, {task.ds, kKeyBlock, 1}, task.k + key * width, width, rows, width,
                      depth, true);
    }
  }
}

template <class T, class W>
void backward_group(const AttentionBackward& op, const Attention& forward, const AttentionMaskReader& mask,
                    const Task<W>& task, std::int64_t b, std::int64_t kv_head) {
  const std::int64_t head_dim = forward.head_dim(), width = Carver<W>::padded(head_dim);
  const std::int64_t padded_keys = round_up(forward.keys(), kKeyBlock), queries = forward.queries();
  const std::int64_t keys = mask.length(b);
  pack_rows(task.k, width, padded_keys, head_rows<T>(op.k, b, kv_head), keys, head_dim);
  pack_transposed(task.k_transposed, padded_keys, head_rows<T>(op.k, b, kv_head), keys, head_dim);
  pack_transposed(task.v_transposed, padded_keys, head_rows<T>(op.v, b, kv_head), keys, head_dim);
  std::fill_n(task.dk, padded_keys * width, W{0});
  std::fill_n(task.dv, padded_keys * width, W{0});
  const std::int64_t heads_per_group = forward.heads() / forward.kv_heads();
  for (std::int64_t head = kv_head * heads_per_group; head < (kv_head + 1) * heads_per_group; ++head) {
    pack_rows(task.q, width, queries, head_rows<T>(op.q, b, head), queries, head_dim);
    pack_rows(task.d_out, width, queries, head_rows<T>(op.do_, b, head), queries, head_dim);
    std::fill_n(task.dq, queries * width, W{0});
    const HeadRows<T> o = head_rows<T>(op.o, b, head);
    for (std::int64_t i = 0; i < queries; ++i) {
      W sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t d = 0; d < head_dim; ++d) sum += task.d_out[i * width + d] * to_float(o.row(i)[d]);
      task.row_sums[i] = sum;
    }
    backward_head(forward, mask, task, op.lse.as<W>() + (b * forward.heads() + head) * queries, b);
    unpack_rows<T>(op.dq, b, head, 0, queries, task.dq, width);
  }
  unpack_rows<T>(op.dk, b, kv_head, 0, forward.keys(), task.dk, width);
  unpack_rows<T>(op.dv, b, kv_head, 0, forward.keys(), task.dv, width);
}

}  // namespace

template <class T>
void attention_backward_blocks(const CpuContext& cpu, const AttentionBackward& op) {
  using W = Wide<T>;
  const Attention forward = op.forward();
  const AttentionMaskReader mask = mask_reader(forward);
  const std::int64_t groups = forward.batch() * forward.kv_heads();
  const auto scratch = cpu.scratch<W>(cpu.threads, task_size<W>(forward));
  // One task per key-value head and sequence, so that every sum has one owner and one order.
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t group = 0; group < groups; ++group)
    backward_group<T, W>(op, forward, mask, carve_task(scratch.part(omp_get_thread_num()), forward),
                         group / forward.kv_heads(), group % forward.kv_heads());
}

template void attention_backward_blocks<float>(const CpuContext&, const AttentionBackward&);
template void attention_backward_blocks<bf16>(const CpuContext&, const AttentionBackward&);
template void attention_backward_blocks<double>(const CpuContext&, const AttentionBackward&);

}  // namespace omni
