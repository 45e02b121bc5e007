#include "kernels/sampling/sampling.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/sampling/weight.h"
#include "kernels/simd.h"

namespace omni {
namespace {

constexpr std::int64_t kSamplingCost = 32;  // steps per logit, for the split among threads

struct Candidate {
  float logit;
  std::int32_t id;
  std::uint64_t weight;
};

bool is_before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Temperature and penalty. Returns whether all logits are numbers.
bool scale(float* logits, std::int64_t row, const SampleToken& op) {  // [classes]
  const float temperature = static_cast<float>(op.temperature), penalty = static_cast<float>(op.repetition_penalty);
  const std::uint8_t* seen = op.seen ? op.seen.as<std::uint8_t>() + row * op.classes() : nullptr;
  const auto penalize = [&](std::int64_t i) { logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty; };
  bool is_number = true;
  for (std::int64_t i = 0; i < op.classes(); ++i) {
    is_number &= !std::isnan(logits[i]);
    logits[i] /= temperature;
    if (seen && seen[i]) penalize(i);
  }
  const std::int64_t window = op.recent ? op.recent.width() : 0;
  for (std::int64_t i = row * window; i < (row + 1) * window; ++i) {
    const std::int64_t token = op.recent.as<std::int64_t>()[i];
    if (token >= 0 && token < op.classes()) penalize(token);
  }
  return is_number;
}

// A number that at least `rank` of the logits reach, and of many logits not many more: the least of the largest of as
// many groups.
float bound_of_first(const float* logits, std::int64_t count, std::int64_t rank) {
  constexpr std::int64_t kGroups = 64, kLeast = 8;  // groups, and how many logits of each are worth the effort
  if (rank > kGroups || count < kLeast * kGroups) return -std::numeric_limits<float>::infinity();
  float largest[kGroups];
  std::copy_n(logits, kGroups, largest);
  for (std::int64_t i = kGroups; i + kGroups <= count; i += kGroups)
#pragma omp simd
    for (std::int64_t group = 0; group < kGroups; ++group) largest[group] = std::max(largest[group], logits[i + group]);
  return *std::min_element(largest, largest + kGroups);
}

// Moves the top_k first of `count` candidates, and ties with the last of them, to the front. Returns their number.
std::int64_t keep_top_k(Candidate* candidates, std::int64_t count, std::int64_t top_k) {
  Candidate *last = candidates + top_k - 1, *end = candidates + count;
  std::nth_element(candidates, last, end, is_before);
  return std::partition(last, end, [least = last->logit](const Candidate& c) { return c.logit >= least; }) - candidates;
}

// Candidates from the first to the last, put in order only as far as somebody looks: a draw mostly ends among the first
// few of thousands. None of the first `front` comes after one of the others.
class Ordered {
 public:
  static constexpr std::int64_t kFirst = 64;  // how many are put in order at first

  Ordered(Candidate* candidates, std::int64_t front, std::int64_t count)
      : candidates_(candidates), front_(front), count_(count) {}

  // The first candidate up to which the weights sum to more than `target`, and that sum.
  struct Found {
    std::int32_t id;
    std::uint64_t sum;
  };
  Found find(std::uint64_t target) {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0;; ++i) {
      if (i == sorted_) sort_more();
      sum += candidates_[i].weight;
      if (sum > target) return {candidates_[i].id, sum};
    }
  }

 private:
  void sort_more() {
    constexpr std::int64_t kGrowth = 4;
    const std::int64_t limit = sorted_ < front_ ? front_ : count_;
    Candidate *begin = candidates_ + sorted_, *end = candidates_ + limit;
    sorted_ = std::min(std::max(kFirst, kGrowth * sorted_), limit);
    if (sorted_ < limit) std::nth_element(begin, candidates_ + sorted_, end, is_before);
    std::sort(begin, candidates_ + sorted_, is_before);
  }

  Candidate* candidates_;
  std::int64_t front_, count_, sorted_ = 0;
};

std::int32_t draw(Candidate* candidates, const float* logits, double uniform, const SampleToken& op) {  // [classes]
  const std::int64_t classes = op.classes();
  const bool by_rank = op.is_cut_by_rank();
  const float largest = maximum(logits, classes),
              bound = bound_of_first(logits, classes, by_rank ? op.top_k : Ordered::kFirst);
  std::int64_t front = 0, back = classes;
  for (std::int64_t i = 0; i < classes; ++i) {
    const bool is_first = logits[i] >= bound;
    back -= !is_first;
    candidates[is_first ? front : back] = {logits[i], static_cast<std::int32_t>(i), 0};
    front += is_first;
  }
  if (by_rank) front = keep_top_k(candidates, front, op.top_k);
  const std::int64_t count = by_rank ? front : classes;
  std::uint64_t kept = 0;
  for (std::int64_t i = 0; i < count; ++i) kept += candidates[i].weight = sampling_weight(candidates[i].logit, largest);
  Ordered ordered(candidates, front, count);
  if (op.top_p < 1) kept = ordered.find(share_of(kept, op.top_p)).sum;
  return ordered.find(share_of(kept, uniform)).id;
}

}  // namespace

void SampleToken::check(Check& that) const {
  const std::int64_t rows = token.count(), width = classes();
  that.matrix("logits", logits, DType::f32, rows, width);
  that.that(width > 0 && width <= kMaxClasses, "there must be 1 to 8388608 classes");
  that.operand("token", token, DType::i64, {rows});
  that.optional("seen", seen, DType::u8, logits.shape);
  if (recent) that.matrix("recent", recent, DType::i64, rows, recent.width());
  that.optional("uniform", uniform, DType::f64, token.shape);
  that.that(uniform || greedy, "uniform may only be absent if greedy");
  // The kernels take both as floats, where they must still be positive numbers.
  const auto is_factor = [](double x) { return std::isnormal(static_cast<float>(x)) && x > 0; };
  that.that(is_factor(temperature), "temperature must be positive, found " + std::to_string(temperature));
  that.that(is_factor(repetition_penalty),
            "repetition_penalty must be positive, found " + std::to_string(repetition_penalty));
  that.that(top_k >= 0, "top_k must not be negative, found " + std::to_string(top_k));
  that.that(top_p >= 0, "top_p must not be negative, found " + std::to_string(top_p));
}

void run(const CpuContext& cpu, const SampleToken& op) {
  const std::int64_t rows = op.token.count(), classes = op.classes();
  const int parts = parts_for(cpu, rows, kSamplingCost * classes);
  const auto candidates = cpu.scratch<Candidate>(parts, classes);
  std::atomic<bool> is_number = true;
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      float* logits = op.logits.as<float>() + row * classes;
      if (!scale(logits, row, op)) {
        is_number = false;
        continue;
      }
      op.token.as<std::int64_t>()[row] = op.greedy
                                             ? std::max_element(logits, logits + classes) - logits
                                             : draw(candidates.part(part), logits, op.uniform.as<double>()[row], op);
    }
  });
  if (!is_number) throw std::runtime_error("sampling: a logit is not a number; the weights may be damaged");
}

}  // namespace omni
