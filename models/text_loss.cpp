#include "models/text_loss.h"

#include <algorithm>
#include <stdexcept>

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gather_rows.h"

namespace omni {
namespace {

constexpr std::int64_t kIgnored = -100;
// Sizes are rounded up to these units, so that a run meets few different matrix shapes.
constexpr std::int64_t kColumnUnit = 8, kRowUnit = 64;

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// Columns [0, n) of a [batch, time] matrix of ids.
Tensor first_columns(Tape& tape, const ConstView& ids, std::int64_t n) {
  Tensor out = tape.constant(DType::i64, {ids.shape[0], n});
  for (std::int64_t b = 0; b < ids.shape[0]; ++b)
    std::copy_n(ids.as<std::int64_t>() + b * ids.shape[1], n, out.as<std::int64_t>() + b * n);
  return out;
}

// The positions that predict a label, among the first `columns` columns.
struct LabelledRows {
  Tensor source, inverse, targets;  // i64 [count], [batch * columns], [count]
};

LabelledRows labelled_rows(Tape& tape, const ConstView& labels, std::int64_t columns, std::int64_t labelled) {
  const std::int64_t batch = labels.shape[0], time = labels.shape[1];
  const std::int64_t count = std::min(round_up(labelled, kRowUnit), batch * columns);
  LabelledRows rows{tape.constant(DType::i64, {count}), tape.constant(DType::i64, {batch * columns}),
                    tape.constant(DType::i64, {count})};
  auto *source = rows.source.as<std::int64_t>(), *inverse = rows.inverse.as<std::int64_t>(),
       *targets = rows.targets.as<std::int64_t>();
  std::fill_n(source, count, -1);
  std::fill_n(targets, count, kIgnored);
  std::int64_t next = 0;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < columns; ++t) {
      const std::int64_t label = t + 1 < time ? labels.as<std::int64_t>()[b * time + t + 1] : kIgnored;
      inverse[b * columns + t] = label == kIgnored ? -1 : next;
      if (label == kIgnored) continue;
      source[next] = b * columns + t;
      targets[next++] = label;
    }
  return rows;
}

// labels moved one column to the left: what each position predicts.
Tensor shifted(Tape& tape, const ConstView& labels) {
  const std::int64_t batch = labels.shape[0], time = labels.shape[1];
  Tensor out = tape.constant(DType::i64, {batch * time});
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < time; ++t)
      out.as<std::int64_t>()[b * time + t] = t + 1 < time ? labels.as<std::int64_t>()[b * time + t + 1] : kIgnored;
  return out;
}

}  // namespace

TextLoss text_loss(Tape& tape, Thinker& thinker, const ConstView& input_ids, const ConstView& labels, Padding padding,
                   const Observer& observer) {
  const std::int64_t batch = input_ids.shape[0], time = input_ids.shape[1];
  if (input_ids.dtype != DType::i64 || labels.dtype != DType::i64 || !(input_ids.shape == labels.shape) ||
      input_ids.shape.rank() != 2)
    throw std::invalid_argument("text_loss: input_ids and labels must both be i64 [batch, time], found " +
                                Check::text(input_ids) + " and " + Check::text(labels));
  std::int64_t last = 0, labelled = 0;  // the last column that holds a label
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 1; t < time; ++t)
      if (labels.as<std::int64_t>()[b * time + t] != kIgnored) {
        last = std::max(last, t);
        ++labelled;
      }
  const bool skip = padding == Padding::skip;
  const std::int64_t columns =
      skip && !thinker.config().use_moe ? std::clamp<std::int64_t>(round_up(last, kColumnUnit), 1, time) : time;
  const Thinker::Output out =
      thinker(tape,
              columns < time ? first_columns(tape, input_ids, columns)
                             : Tensor(View{{const_cast<void*>(input_ids.data), DType::i64, input_ids.shape}}),
              {}, 0, observer);
  const Tensor hidden = Tape::reshaped(out.hidden, {batch * columns, out.hidden.width()});
  TextLoss result{{}, {}, out.aux_loss, labelled};
  if (skip) {
    const LabelledRows rows = labelled_rows(tape, labels, columns, labelled);
    const Tensor logits = thinker.logits(tape, gather_rows(tape, hidden, rows.source, rows.inverse));
    result.text_loss = cross_entropy(tape, logits, rows.targets);
  } else {
    const Tensor logits = thinker.logits(tape, hidden);  // [batch * time, vocab_size]
    if (observer) observer("text_logits", Tape::reshaped(logits, {batch, time, logits.width()}));
    result.text_loss = cross_entropy(tape, logits, shifted(tape, labels));
  }
  result.loss = out.aux_loss ? add(tape, result.text_loss, out.aux_loss) : result.text_loss;
  return result;
}

}  // namespace omni
