#include "kernels/cross_entropy/cross_entropy.h"

#include <cstring>

#include "kernels/simd.h"

namespace omni {
namespace {

constexpr std::int64_t kCrossEntropyCost = 4;  // steps per logit, for the split among threads

// The number of rows that count among those of a group. Throws for a target that is no class.
std::int64_t count_targets(const CrossEntropy& op, std::int64_t begin, std::int64_t end) {
  const std::int64_t *targets = op.targets.as<std::int64_t>(), classes = op.logits.width();
  std::int64_t counted = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t target = targets[row];
    if (target == op.ignore_index) continue;
    if (target < 0 || target >= classes)
      Check(CrossEntropy::name)
          .that(false, "targets[" + std::to_string(row) + "] is " + std::to_string(target) + ", expected 0 .. " +
                           std::to_string(classes - 1) + " or " + std::to_string(op.ignore_index));
    ++counted;
  }
  return counted;
}

template <class W>
struct RowLoss {
  W loss, sum;  // -log softmax(logits)[target], sum of exp(logits - max)
  bool hit;
};

// probability [classes] becomes exp(logits - max).
template <class T, class W>
RowLoss<W> row_loss(W* probability, const T* logits, std::int64_t target, std::int64_t classes) {
  const W most = maximum(logits, classes);
  W total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t c = 0; c < classes; ++c) {
    probability[c] = fast_exp(to_float(logits[c]) - most);
    total += probability[c];
  }
  const W logit = to_float(logits[target]);
  return {std::log(total) + most - logit, total, logit == most};
}

template <class T, class W>
void row_gradient(T* logits, const W* probability, W sum, W weight, std::int64_t target, std::int64_t classes) {
  const W factor = weight / sum;
#pragma omp simd
  for (std::int64_t c = 0; c < classes; ++c) logits[c] = round_to<T>(probability[c] * factor);
  logits[target] = round_to<T>(weight * (probability[target] / sum - 1));
}

template <class T>
void cross_entropy(const CpuContext& cpu, const CrossEntropy& op) {
  using W = Wide<T>;
  const std::int64_t rows = op.logits.rows(), classes = op.logits.width();
  const std::int64_t groups = op.loss.count(), group_rows = rows / groups;
  const std::int64_t* targets = op.targets.as<std::int64_t>();
  const W* weights = op.weights.as<W>();
  W* hits = op.hits.as<W>();
  const int parts = parts_for(cpu, rows, kCrossEntropyCost * classes);
  // Scratch: the loss of each row, the count of each group, a row of probabilities per part. All are aligned for
  // doubles.
  double* const losses = cpu.scratch<double>(1, rows + groups + 8 + parts * (classes + 8)).data;
  std::int64_t* const counted = reinterpret_cast<std::int64_t*>(losses + rows);
  double* const probabilities = losses + rows + groups + 8;
  for (std::int64_t g = 0; g < groups; ++g) counted[g] = count_targets(op, g * group_rows, (g + 1) * group_rows);
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    W* probability = reinterpret_cast<W*>(probabilities + part * (classes + 8));
    for (std::int64_t row = begin; row < end; ++row) {
      T* logits = op.logits.as<T>() + row * classes;
      const std::int64_t target = targets[row];
      losses[row] = 0;
      if (hits != nullptr) hits[row] = 0;
      if (target != op.ignore_index) {
        const W weight = weights == nullptr ? W{1} : weights[row];
        const auto [loss, sum, hit] = row_loss(probability, logits, target, classes);
        losses[row] = static_cast<double>(weight) * loss;
        if (hits != nullptr) hits[row] = hit ? 1 : 0;
        const W share = weight / static_cast<W>(counted[row / group_rows]);
        if (op.gradient) row_gradient(logits, probability, sum, share, target, classes);
      } else if (op.gradient) {
        std::fill_n(logits, classes, round_to<T>(W{0}));
      }
    }
  });
  for (std::int64_t g = 0; g < groups; ++g) {
    double loss = 0;
    for (std::int64_t row = g * group_rows; row < (g + 1) * group_rows; ++row) loss += losses[row];
    op.loss.as<W>()[g] = static_cast<W>(counted[g] == 0 ? 0 : loss / static_cast<double>(counted[g]));
  }
}

}  // namespace

void CrossEntropy::check(Check& that) const {
  that.same("logits", logits);
  that.that(logits.width() > 0, "logits must have at least one class");
  that.operand("loss", loss, wide_of(logits.dtype), loss.shape);
  that.that(loss.count() > 0 && logits.rows() % loss.count() == 0,
            "loss must hold one number for each of equal parts of the rows, found loss " + Check::text(loss) +
                ", logits " + Check::text(logits));
  that.operand("targets", targets, DType::i64, targets.shape);
  that.that(targets.count() == logits.rows(), "targets must hold one class per row of the logits, found targets " +
                                                  Check::text(targets) + ", logits " + Check::text(logits));
  for (const auto& [name, view] : {std::pair("weights", weights), {"hits", ConstView(hits)}}) {
    if (!view) continue;
    that.operand(name, view, wide_of(logits.dtype), view.shape);
    that.that(view.count() == logits.rows(), std::string(name) + " must hold one number per row of the logits, found " +
                                                 name + " " + Check::text(view) + ", logits " + Check::text(logits));
  }
}

void run(const CpuContext& cpu, const CrossEntropy& op) {
  dispatch(op.logits.dtype, [&]<class T>() { cross_entropy<T>(cpu, op); });
}

}  // namespace omni
