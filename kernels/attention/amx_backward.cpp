#include <omp.h>

#include "kernels/attention/amx.h"
#include "kernels/attention/amx_panels.h"
#include "kernels/attention/mask.h"
#include "kernels/simd.h"

#ifdef OMNI_HAS_AMX

namespace omni {
namespace {

// Keys of one block, and panels of queries that meet them before its dk and dv are added to: the depth of those
// products.
constexpr std::int64_t kKeys = 64, kStrip = 16;

// The memory of one task: a key-value head of a sequence with the query heads that read it.
struct Task {
  bf16 *k, *v;      // [keys, width]
  bf16* k_columns;  // [keys / kKeys, width, kKeys]
  Pair* k_rows;     // [kTile, width], of the panel of keys at hand
  float *dk, *dv;   // [keys, width]
  // The query head at hand.
  Pair *q_columns, *do_columns;  // [query panels, width / 2, kPanel]
  Pair *q_rows, *do_rows;        // [query panels * kTile, width]
  float* dq;                     // [query panels, width, kPanel]
  float *lse, *row_sums;         // [queries]: as the forward pass left it; the sum over head_dim of do * o
  // Keys and panels of queries at hand.
  float *scores, *d_p;  // [kKeys, kPanel]
  bf16 *p, *ds;         // [kStrip, kKeys, kPanel]
  Pair* ds_pairs;       // [kKeys / 2, kPanel]
  bf16* panel;          // [kPanel, width]
  float* dq_rows;       // [kPanel, width]
};

// Probabilities and the gradients of scores are made with the keys as rows, and dq with head_dim as rows: so none of
// them needs to be transposed to be an operand.
class Backward {
 public:
  Backward(const CpuContext& cpu, const AttentionBackward& op)
      : cpu_(cpu),
        op_(op),
        forward_(op.forward()),
        mask_(mask_reader(forward_)),
        width_(round_up(forward_.head_dim(), kPanel)),
        keys_(round_up(forward_.keys(), kKeys)),
        queries_(round_up(forward_.queries(), kPanel)) {}

  // One task per key-value head and sequence, so that every sum has one owner and one order.
  void run() const {
    const auto scratch = cpu_.scratch<float>(cpu_.threads, task_size());
    const std::int64_t groups = forward_.batch() * forward_.kv_heads();
#pragma omp parallel num_threads(cpu_.threads)
    {
      const TileRegisters registers;
      Carver<float> carver(scratch.part(omp_get_thread_num()));
      const Task task = carve(carver);
#pragma omp for schedule(dynamic)
      for (std::int64_t group = 0; group < groups; ++group)
        run_group(task, group / forward_.kv_heads(), group % forward_.kv_heads());
    }
  }

 private:
  std::int64_t task_size() const {
    return keys_ * width_ * 7 / 2 + queries_ * (3 * width_ + 2) + kKeys * kPanel * 5 / 2 + kStrip * kKeys * kPanel +
           kPanel * width_ * 2;
  }

  Task carve(Carver<float>& carver) const {
    const auto halves = [&](std::int64_t count) { return reinterpret_cast<bf16*>(carver.take(count / 2)); };
    const auto pairs = [&](std::int64_t count) { return reinterpret_cast<Pair*>(carver.take(count)); };
    Task task{};
    for (bf16** keys : {&task.k, &task.v, &task.k_columns}) *keys = halves(keys_ * width_);
    task.k_rows = pairs(kTile * width_);
    for (float** keys : {&task.dk, &task.dv}) *keys = carver.take(keys_ * width_);
    for (Pair** queries : {&task.q_columns, &task.do_columns, &task.q_rows, &task.do_rows})
      *queries = pairs(queries_ * width_ / 2);
    task.dq = carver.take(queries_ * width_);
    for (float** each : {&task.lse, &task.row_sums}) *each = carver.take(queries_);
    for (float** block : {&task.scores, &task.d_p}) *block = carver.take(kKeys * kPanel);
    for (bf16** strip : {&task.p, &task.ds}) *strip = halves(kStrip * kKeys * kPanel);
    task.ds_pairs = pairs(kKeys / 2 * kPanel);
    task.panel = halves(kPanel * width_);
    task.dq_rows = carver.take(kPanel * width_);
    return task;
  }

  void run_group(const Task& task, std::int64_t b, std::int64_t kv_head) const {
    pack_keys(task, b, kv_head);
    std::fill_n(task.dk, keys_ * width_, 0.0f);
    std::fill_n(task.dv, keys_ * width_, 0.0f);
    const std::int64_t heads_per_group = forward_.heads() / forward_.kv_heads();
    for (std::int64_t head = kv_head * heads_per_group; head < (kv_head + 1) * heads_per_group; ++head) {
      pack_queries(task, b, head);
      std::fill_n(task.dq, queries_ * width_, 0.0f);
      for (std::int64_t key = 0; key < mask_.length(b); key += kKeys) run_keys(task, b, key);
      write_dq(task, b, head);
    }
    unpack_rows<bf16>(op_.dk, b, kv_head, 0, forward_.keys(), task.dk, width_);
    unpack_rows<bf16>(op_.dv, b, kv_head, 0, forward_.keys(), task.dv, width_);
  }

  void pack_keys(const Task& task, std::int64_t b, std::int64_t kv_head) const {
    const HeadRows<bf16> k = head_rows<bf16>(op_.k, b, kv_head), v = head_rows<bf16>(op_.v, b, kv_head);
    for (std::int64_t first = 0; first < keys_; first += kPanel) {
      copy_panel(task.k + first * width_, width_, k, first, mask_.length(b), forward_.head_dim());
      copy_panel(task.v + first * width_, width_, v, first, mask_.length(b), forward_.head_dim());
      // Pairs of rows, transposed, are the columns.
      pair_rows(task.k_rows, task.k + first * width_, width_);
      const std::int64_t place = first / kKeys * kKeys * width_ + first % kKeys;
      transpose(reinterpret_cast<Pair*>(task.k_columns + place), kKeys / 2, task.k_rows, kTile, width_);
    }
  }

  void pack_queries(const Task& task, std::int64_t b, std::int64_t head) const {
    const HeadRows<bf16> q = head_rows<bf16>(op_.q, b, head), d_out = head_rows<bf16>(op_.do_, b, head),
                         o = head_rows<bf16>(op_.o, b, head);
    const std::int64_t queries = forward_.queries(), head_dim = forward_.head_dim();
    for (std::int64_t first = 0; first < queries_; first += kPanel) {
      const std::int64_t place = first / 2 * width_;
      copy_panel(task.panel, width_, q, first, queries, head_dim);
      pair_columns(task.q_columns + place, task.panel, width_);
      pair_rows(task.q_rows + place, task.panel, width_);
      copy_panel(task.panel, width_, d_out, first, queries, head_dim);
      pair_columns(task.do_columns + place, task.panel, width_);
      pair_rows(task.do_rows + place, task.panel, width_);
    }
    std::fill_n(task.lse, queries_, 0.0f);
    std::fill_n(task.row_sums, queries_, 0.0f);
    std::copy_n(op_.lse.as<float>() + (b * forward_.heads() + head) * queries, queries, task.lse);
    for (std::int64_t i = 0; i < queries; ++i) {
      const bf16 *x = d_out.row(i), *y = o.row(i);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t d = 0; d < head_dim; ++d) sum += to_float(x[d]) * to_float(y[d]);
      task.row_sums[i] = sum;
    }
  }

  // What the keys from `key` add to dk and dv, and to dq of the queries that see them.
  void run_keys(const Task& task, std::int64_t b, std::int64_t key) const {
    const IndexRange queries = mask_.queries_of(b, key, std::min(key + kKeys, forward_.keys()));
    const std::int64_t end = ceil_div(queries.end, kPanel);
    for (std::int64_t first = queries.begin / kPanel; first < end; first += kStrip) {
      const std::int64_t panels = std::min(kStrip, end - first);
      for (std::int64_t i = 0; i < panels; ++i) run_panel(task, b, key, first + i, i * kKeys * kPanel);
      for (const std::int64_t half : {std::int64_t{0}, kPanel})
        for (std::int64_t d = 0; d < width_; d += kPanel) {
          const std::int64_t to = (key + half) * width_ + d, rows = first * kTile * width_ + d;
          multiply_tiles(task.dv + to, width_, strip_tiles(task.p, half), pairs_tiles(task.do_rows + rows, width_),
                         panels, true);
          multiply_tiles(task.dk + to, width_, strip_tiles(task.ds, half), pairs_tiles(task.q_rows + rows, width_),
                         panels, true);
        }
    }
  }

  // 32 keys of a strip, from `half`, as tiles of A: keys by queries.
  static TilePair strip_tiles(const bf16* strip, std::int64_t half) {
    TilePair tiles = rows_tiles(strip + half * kPanel, kPanel);
    tiles.to_next = kKeys * tiles.row_bytes;
    return tiles;
  }

  // Probabilities and gradients of scores of one panel of queries, at `place` of the strip, and what they add to dq.
  void run_panel(const Task& task, std::int64_t b, std::int64_t key, std::int64_t panel, std::int64_t place) const {
    const std::int64_t chunks = width_ / kTileDepth, queries = panel * kTile * width_;
    for (const std::int64_t half : {std::int64_t{0}, kPanel}) {
      const std::int64_t row = (key + half) * width_;
      multiply_tiles(task.scores + half * kPanel, kPanel, rows_tiles(task.k + row, width_),
                     pairs_tiles(task.q_columns + queries, kPanel), chunks, false);
      multiply_tiles(task.d_p + half * kPanel, kPanel, rows_tiles(task.v + row, width_),
                     pairs_tiles(task.do_columns + queries, kPanel), chunks, false);
    }
    for (std::int64_t i = 0; i < kKeys; ++i) {
      const IndexRange visible = mask_.queries_of(b, key + i, key + i + 1);
      gradient_row(task, panel * kPanel, i * kPanel, visible);
    }
    round_row(task.p + place, task.scores, kKeys * kPanel);
    round_row(task.ds + place, task.d_p, kKeys * kPanel);
    for (const std::int64_t half : {std::int64_t{0}, kPanel})
      pair_rows(task.ds_pairs + half / 2 * kPanel, task.ds + place + half * kPanel, kPanel);
    for (std::int64_t d = 0; d < width_; d += kPanel)
      multiply_tiles(task.dq + (panel * width_ + d) * kPanel, kPanel,
                     rows_tiles(task.k_columns + key * width_ + d * kKeys, kKeys), pairs_tiles(task.ds_pairs, kPanel),
                     kKeys / kTileDepth, true);
  }

  // One key's scores become probabilities, and its do v^T the gradient of its scores, zero where masked.
  void gradient_row(const Task& task, std::int64_t first, std::int64_t place, const IndexRange& visible) const {
    const auto scale = static_cast<float>(forward_.score_scale());
    float *p = task.scores + place, *ds = task.d_p + place;
    const float *lse = task.lse + first, *row_sums = task.row_sums + first;
    const auto begin = static_cast<int>(std::clamp<std::int64_t>(visible.begin - first, 0, kPanel)),
               end = static_cast<int>(std::clamp<std::int64_t>(visible.end - first, 0, kPanel));
#pragma omp simd
    for (int i = 0; i < kPanel; ++i) {
      const bool sees = i >= begin && i < end;
      const float weight = fast_exp(p[i] * scale - lse[i]), gradient = weight * (ds[i] - row_sums[i]) * scale;
      p[i] = sees ? weight : 0;
      ds[i] = sees ? gradient : 0;
    }
  }

  void write_dq(const Task& task, std::int64_t b, std::int64_t head) const {
    for (std::int64_t first = 0; first < forward_.queries(); first += kPanel) {
      transpose(task.dq_rows, width_, task.dq + first * width_, width_, kPanel);
      unpack_rows<bf16>(op_.dq, b, head, first, std::min(kPanel, forward_.queries() - first), task.dq_rows, width_);
    }
  }

  const CpuContext& cpu_;
  const AttentionBackward& op_;
  Attention forward_;
  AttentionMaskReader mask_;
  std::int64_t width_, keys_, queries_;
};

}  // namespace

bool amx_attention_backward(const CpuContext& cpu, const AttentionBackward& op) {
  if (!op.forward().fits_matrix_units() || !may_use_tiles()) return false;
  Backward(cpu, op).run();
  return true;
}

}  // namespace omni

#else

namespace omni {
bool amx_attention_backward(const CpuContext&, const AttentionBackward&) { return false; }
}  // namespace omni

#endif
