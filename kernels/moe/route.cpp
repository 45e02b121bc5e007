#include <algorithm>
#include <cmath>

#include "kernels/moe/moe.h"

namespace omni {
namespace {

constexpr double kTinySum = 1e-20;  // keeps the renormalisation defined when all kept weights vanish

template <class T, class W>
void softmax_row(W* p, const T* logits, std::int64_t experts) {
  W maximum = to_float(logits[0]), sum = 0;
  for (std::int64_t e = 1; e < experts; ++e) maximum = std::max<W>(maximum, to_float(logits[e]));
  for (std::int64_t e = 0; e < experts; ++e) sum += p[e] = std::exp(to_float(logits[e]) - maximum);
  for (std::int64_t e = 0; e < experts; ++e) p[e] /= sum;
}

// The top_k largest of p, the largest first.
template <class W>
void select(std::int64_t* expert, W* weight, const W* p, std::int64_t experts, std::int64_t top_k, bool normalize) {
  W sum = 0;
  for (std::int64_t k = 0; k < top_k; ++k) {
    std::int64_t best = -1;
    for (std::int64_t e = 0; e < experts; ++e)
      if (std::find(expert, expert + k, e) == expert + k && (best < 0 || p[e] > p[best])) best = e;
    expert[k] = best;
    weight[k] = p[best];
    sum += p[best];
  }
  if (normalize)
    for (std::int64_t k = 0; k < top_k; ++k) weight[k] /= sum + static_cast<W>(kTinySum);
}

// Counting sort of the routed rows by expert; rows keep their order inside a segment.
void sort_by_expert(const MoeRoute& op) {
  const std::int64_t slots = op.expert.count(), experts = op.experts(), top_k = op.top_k();
  const std::int64_t unit = moe_alignment(slots);
  const std::int64_t* expert = op.expert.as<std::int64_t>();
  std::int64_t *slot = op.slot.as<std::int64_t>(), *source = op.source.as<std::int64_t>(),
               *offset = op.offset.as<std::int64_t>();
  std::fill_n(offset, experts + 1, 0);
  for (std::int64_t i = 0; i < slots; ++i) ++offset[expert[i] + 1];
  for (std::int64_t e = 0; e < experts; ++e) offset[e + 1] = offset[e] + round_up(offset[e + 1], unit);
  std::fill_n(source, op.source.count(), -1);
  std::int64_t cursor[MoeRouteBackward::kMaxExperts];
  std::copy_n(offset, experts, cursor);
  for (std::int64_t i = 0; i < slots; ++i) {
    slot[i] = cursor[expert[i]]++;
    source[slot[i]] = i / top_k;
  }
}

template <class W>
W balancing_loss(const MoeRoute& op) {
  const std::int64_t rows = op.rows(), experts = op.experts();
  const std::int64_t* expert = op.expert.as<std::int64_t>();
  const W* p = op.probability.as<W>();
  double loss = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const double chosen = static_cast<double>(std::count(expert, expert + op.expert.count(), e));
    double sum = 0;
    for (std::int64_t row = 0; row < rows; ++row) sum += static_cast<double>(p[row * experts + e]);
    loss += chosen / static_cast<double>(rows) * (sum / static_cast<double>(rows));
  }
  return static_cast<W>(op.coefficient * static_cast<double>(experts) * loss);
}

template <class T>
void route(const MoeRoute& op) {
  using W = Wide<T>;
  const std::int64_t experts = op.experts(), top_k = op.top_k();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < op.rows(); ++row) {
    W* p = op.probability.as<W>() + row * experts;
    softmax_row(p, op.logits.as<T>() + row * experts, experts);
    select(op.expert.as<std::int64_t>() + row * top_k, op.weight.as<W>() + row * top_k, p, experts, top_k,
           op.normalize);
  }
  sort_by_expert(op);
  if (op.aux_loss) *op.aux_loss.as<W>() = balancing_loss<W>(op);
}

template <class T>
void route_backward(const MoeRouteBackward& op) {
  using W = Wide<T>;
  const std::int64_t rows = op.probability.rows(), experts = op.probability.width(), top_k = op.weight.width();
  const std::int64_t* expert = op.expert.as<std::int64_t>();
  // d aux_loss / d p[r, e] is one number per expert.
  W balance[MoeRouteBackward::kMaxExperts] = {};
  if (op.daux_loss)
    for (std::int64_t e = 0; e < experts; ++e) {
      const double chosen = static_cast<double>(std::count(expert, expert + rows * top_k, e));
      balance[e] = static_cast<W>(op.coefficient * static_cast<double>(experts) * chosen /
                                  (static_cast<double>(rows) * static_cast<double>(rows)) *
                                  static_cast<double>(*op.daux_loss.as<W>()));
    }
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const W *p = op.probability.as<W>() + row * experts, *weight = op.weight.as<W>() + row * top_k;
    W dp[MoeRouteBackward::kMaxExperts];
    std::copy_n(balance, experts, dp);
    if (op.dweight) {
      const W* dweight = op.dweight.as<W>() + row * top_k;
      W sum = 1, dot = 0;
      if (op.normalize) {
        sum = static_cast<W>(kTinySum);
        for (std::int64_t k = 0; k < top_k; ++k) {
          sum += p[expert[row * top_k + k]];
          dot += dweight[k] * weight[k];
        }
      }
      for (std::int64_t k = 0; k < top_k; ++k) dp[expert[row * top_k + k]] += (dweight[k] - dot) / sum;
    }
    W dot = 0;
    for (std::int64_t e = 0; e < experts; ++e) dot += dp[e] * p[e];
    for (std::int64_t e = 0; e < experts; ++e)
      op.dlogits.as<T>()[row * experts + e] = round_to<T>(p[e] * (dp[e] - dot));
  }
}

}  // namespace

void MoeRoute::check(Check& that) const {
  const DType wide = wide_of(logits.dtype);
  that.that(logits && weight, "logits and weight are needed");
  that.that(experts() <= MoeRouteBackward::kMaxExperts && top_k() <= experts(),
            "there must be at most 256 experts and top_k of them or more");
  that.same("logits", logits);
  that.matrix("probability", probability, wide, rows(), experts());
  that.matrix("weight", weight, wide, rows(), top_k());
  that.matrix("expert", expert, DType::i64, rows(), top_k());
  that.matrix("slot", slot, DType::i64, rows(), top_k());
  that.operand("source", source, DType::i64, {moe_capacity(rows() * top_k(), experts())});
  that.operand("offset", offset, DType::i64, {experts() + 1});
  that.optional("aux_loss", aux_loss, wide, {1});
}

void MoeRouteBackward::check(Check& that) const {
  that.same("probability", probability);
  that.matrix("dlogits", dlogits, dlogits.dtype, probability.rows(), probability.width());
  that.matrix("weight", weight, probability.dtype, probability.rows(), weight.width());
  that.matrix("expert", expert, DType::i64, weight.rows(), weight.width());
  if (dweight) that.matrix("dweight", dweight, weight.dtype, weight.rows(), weight.width());
  that.optional("daux_loss", daux_loss, probability.dtype, {1});
}

void run(const CpuContext&, const MoeRoute& op) {
  dispatch(op.logits.dtype, [&]<class T>() { route<T>(op); });
}

void run(const CpuContext&, const MoeRouteBackward& op) {
  dispatch(op.dlogits.dtype, [&]<class T>() { route_backward<T>(op); });
}

}  // namespace omni
