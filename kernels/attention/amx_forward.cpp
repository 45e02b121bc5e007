#include <omp.h>

#include "kernels/attention/amx.h"
#include "kernels/attention/amx_panels.h"
#include "kernels/attention/mask.h"
#include "kernels/attention/online_softmax.h"

#ifdef OMNI_HAS_AMX

namespace omni {
namespace {

// Keys whose scores are made at once, so many that a training sequence needs no second round; and the distance of two
// queries' scores in memory, no power of two, so that they do not want the same places in the cache.
constexpr std::int64_t kKeys = 512, kScores = kKeys + kTile;

// The keys and values of a head of a sequence, in panels.
struct KeyValues {
  Pair* k;  // [panels, width / 2, kPanel]
  Pair* v;  // [panels * kTile, width]
};

// The memory of a thread.
struct QueryPanel {
  bf16* q;        // [kPanel, width]
  float* scores;  // [kPanel, kScores]
  bf16* p;        // [kPanel, kScores]
  float* o;       // [kPanel, width]: sum of p v, not yet divided by the sum of p
};

class Forward {
 public:
  Forward(const CpuContext& cpu, const Attention& op)
      : cpu_(cpu),
        op_(op),
        mask_(mask_reader(op)),
        width_(round_up(op.head_dim(), kPanel)),
        key_panels_(ceil_div(op.keys(), kPanel)),
        groups_(op.batch() * op.kv_heads()),
        group_pairs_(2 * key_panels_ * kTile * width_),
        thread_size_(kPanel * (width_ / 2 + kScores + kScores / 2 + width_)),
        scratch_(cpu.scratch<float>(1, groups_ * group_pairs_ + cpu.threads * thread_size_).data) {}

  void run() const {
    const std::int64_t panels = ceil_div(op_.queries(), kPanel), tasks = op_.batch() * op_.heads() * panels;
#pragma omp parallel num_threads(cpu_.threads)
    {
      const TileRegisters registers;
      const QueryPanel panel = query_panel(omp_get_thread_num());
#pragma omp for schedule(static)
      for (std::int64_t group = 0; group < groups_; ++group)
        pack(key_values(group), panel.q, group / op_.kv_heads(), group % op_.kv_heads());
#pragma omp for schedule(dynamic, 4)
      for (std::int64_t task = 0; task < tasks; ++task)
        run_panel(panel, task / panels / op_.heads(), task / panels % op_.heads(), task % panels * kPanel);
    }
  }

 private:
  KeyValues key_values(std::int64_t group) const {
    Pair* k = reinterpret_cast<Pair*>(scratch_) + group * group_pairs_;
    return {k, k + group_pairs_ / 2};
  }

  QueryPanel query_panel(int thread) const {
    Carver<float> carver(scratch_ + groups_ * group_pairs_ + thread * thread_size_);
    return {reinterpret_cast<bf16*>(carver.take(kPanel * width_ / 2)), carver.take(kPanel * kScores),
            reinterpret_cast<bf16*>(carver.take(kPanel * kScores / 2)), carver.take(kPanel * width_)};
  }

  // Keys at and after the sequence's length may hold anything; they must not meet a zero probability as a NaN.
  void pack(const KeyValues& to, bf16* panel, std::int64_t b, std::int64_t head) const {
    const HeadRows<bf16> k = head_rows<bf16>(op_.k, b, head), v = head_rows<bf16>(op_.v, b, head);
    for (std::int64_t i = 0; i < key_panels_; ++i) {
      copy_panel(panel, width_, k, i * kPanel, mask_.length(b), op_.head_dim());
      pair_columns(to.k + i * kTile * width_, panel, width_);
      copy_panel(panel, width_, v, i * kPanel, mask_.length(b), op_.head_dim());
      pair_rows(to.v + i * kTile * width_, panel, width_);
    }
  }

  // Output rows of 32 queries of one head.
  void run_panel(const QueryPanel& panel, std::int64_t b, std::int64_t head, std::int64_t first) const {
    const std::int64_t rows = std::min(kPanel, op_.queries() - first);
    const KeyValues group = key_values(b * op_.kv_heads() + head / (op_.heads() / op_.kv_heads()));
    copy_panel(panel.q, width_, head_rows<bf16>(op_.q, b, head), first, op_.queries(), op_.head_dim());
    std::fill_n(panel.o, kPanel * width_, 0.0f);
    SoftmaxState<float> states[kPanel];
    const std::int64_t begin = mask_.keys_of(b, first).begin, end = mask_.keys_of(b, first + rows - 1).end;
    for (std::int64_t key = begin / kPanel * kPanel; key < end; key += kKeys) {
      const std::int64_t panels = ceil_div(std::min(kKeys, end - key), kPanel);
      for (std::int64_t i = 0; i < panels; ++i)
        multiply_tiles(panel.scores + i * kPanel, kScores, rows_tiles(panel.q, width_),
                       pairs_tiles(group.k + (key + i * kPanel) / 2 * width_, kPanel), width_ / kTileDepth, false);
      for (std::int64_t r = 0; r < rows; ++r)
        weigh(panel, r, mask_.keys_of(b, first + r), key, panels * kPanel, states[r]);
      for (std::int64_t d = 0; d < width_; d += kPanel)
        multiply_tiles(panel.o + d, width_, rows_tiles(panel.p, kScores),
                       pairs_tiles(group.v + key / 2 * width_ + d, width_), panels, true);
    }
    for (std::int64_t r = 0; r < rows; ++r) write_query<bf16>(op_, b, head, first + r, states[r], panel.o + r * width_);
  }

  // Query r's scores with the keys from `key` become probabilities.
  void weigh(const QueryPanel& panel, std::int64_t r, const IndexRange& visible, std::int64_t key, std::int64_t columns,
             SoftmaxState<float>& state) const {
    float* scores = panel.scores + r * kScores;
    softmax_row(scores, static_cast<float>(op_.score_scale()), std::max<std::int64_t>(visible.begin - key, 0),
                std::min(visible.end - key, columns), columns, state, panel.o + r * width_, width_);
    round_row(panel.p + r * kScores, scores, columns);
  }

  const CpuContext& cpu_;
  const Attention& op_;
  AttentionMaskReader mask_;
  std::int64_t width_, key_panels_, groups_, group_pairs_, thread_size_;
  float* scratch_;
};

}  // namespace

bool amx_attention(const CpuContext& cpu, const Attention& op) {
  if (!op.fits_matrix_units() || !may_use_tiles()) return false;
  Forward(cpu, op).run();
  return true;
}

}  // namespace omni

#else

namespace omni {
bool amx_attention(const CpuContext&, const Attention&) { return false; }
}  // namespace omni

#endif
