#include <omp.h>

#include "kernels/attention/blocks.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/attention/panels.h"

namespace omni {
namespace {

// The memory of a block of queries.
template <class W>
struct QueryBlock {
  W* q;       // [kQueryBlock, head_dim]
  W* scores;  // [kQueryBlock, kKeyBlock]: scores, then probabilities
  W* o;       // [kQueryBlock, width]: sum of p v, not yet divided by the sum of p
};

// Output rows of queries [first, first + rows) of one head.
template <class T, class W>
void forward_block(const Attention& op, const AttentionMaskReader& mask, const QueryBlock<W>& block, const W* k_panel,
                   const W* v_panel, std::int64_t b, std::int64_t head, std::int64_t first, std::int64_t rows) {
  const std::int64_t head_dim = op.head_dim(), width = Carver<W>::padded(head_dim);
  const HeadRows<T> q = head_rows<T>(op.q, b, head);
  const W scale = static_cast<W>(op.score_scale());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t d = 0; d < head_dim; ++d) block.q[r * head_dim + d] = to_float(q.row(first + r)[d]);
    std::fill_n(block.o + r * width, width, W{0});
  }
  SoftmaxState<W> states[kQueryBlock];
  const std::int64_t begin = mask.keys_of(b, first).begin, end = mask.keys_of(b, first + rows - 1).end;
  for (std::int64_t key = begin / kKeyBlock * kKeyBlock; key < end; key += kKeyBlock) {
    const std::int64_t depth = std::min(kKeyBlock, end - key), columns = round_up(depth, Lanes<W>::count);
    tile_product<W>(block.scores, kKeyBlock, {block.q, head_dim, 1}, k_panel + key * head_dim, kKeyBlock, rows, columns,
                    head_dim, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      const IndexRange range = mask.keys_of(b, first + r);
      softmax_row(block.scores + r * kKeyBlock, scale, std::max<std::int64_t>(range.begin - key, 0),
                  std::min(range.end - key, kKeyBlock), columns, states[r], block.o + r * width, width);
    }
    tile_product<W>(block.o, width, {block.scores, kKeyBlock, 1}, v_panel + key * width, width, rows, width, depth,
                    true);
  }
  for (std::int64_t r = 0; r < rows; ++r) write_query<T>(op, b, head, first + r, states[r], block.o + r * width);
}

}  // namespace

template <class T>
void attention_forward_blocks(const CpuContext& cpu, const Attention& op) {
  using W = Wide<T>;
  const AttentionMaskReader mask = mask_reader(op);
  const std::int64_t head_dim = op.head_dim(), width = Carver<W>::padded(head_dim);
  const std::int64_t padded_keys = round_up(op.keys(), kKeyBlock), groups = op.batch() * op.kv_heads();
  const std::int64_t panel = padded_keys * (head_dim + width);
  const std::int64_t state = kQueryBlock * (head_dim + kKeyBlock + width);
  const auto scratch = cpu.scratch<W>(1, groups * panel + cpu.threads * Carver<W>::padded(state));
  const auto k_panel = [&](std::int64_t group) { return scratch.data + group * panel; };
  const auto v_panel = [&](std::int64_t group) { return k_panel(group) + padded_keys * head_dim; };

#pragma omp parallel for schedule(static)
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t b = group / op.kv_heads(), head = group % op.kv_heads();
    // Keys at and after the sequence's length may hold anything; they must not meet a zero probability as a NaN.
    pack_transposed(k_panel(group), padded_keys, head_rows<T>(op.k, b, head), mask.length(b), head_dim);
    pack_rows(v_panel(group), width, padded_keys, head_rows<T>(op.v, b, head), mask.length(b), head_dim);
  }

  const std::int64_t blocks = ceil_div(op.queries(), kQueryBlock), tasks = op.batch() * op.heads() * blocks;
#pragma omp parallel
  {
    Carver<W> carver(scratch.data + groups * panel + omp_get_thread_num() * Carver<W>::padded(state));
    const QueryBlock<W> block{carver.take(kQueryBlock * head_dim), carver.take(kQueryBlock * kKeyBlock),
                              carver.take(kQueryBlock * width)};
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t task = 0; task < tasks; ++task) {
      const std::int64_t head = task / blocks % op.heads(), b = task / blocks / op.heads();
      const std::int64_t group = b * op.kv_heads() + head / (op.heads() / op.kv_heads());
      const std::int64_t first = task % blocks * kQueryBlock;
      forward_block<T, W>(op, mask, block, k_panel(group), v_panel(group), b, head, first,
                          std::min(kQueryBlock, op.queries() - first));
    }
  }
}

template void attention_forward_blocks<float>(const CpuContext&, const Attention&);
template void attention_forward_blocks<bf16>(const CpuContext&, const Attention&);
template void attention_forward_blocks<double>(const CpuContext&, const Attention&);

}  // namespace omni
