#include "models/text_loss.h"

#include <algorithm>
#include <stdexcept>

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gather_rows.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "models/integer_block.h"

namespace omni {
namespace {

// Columns [0, columns) of a [batch, time] matrix of ids.
std::int64_t* first_columns(IntegerBlock& inputs, const ConstView& ids, std::int64_t columns) {
  std::int64_t* out = inputs.take(ids.shape[0] * columns);
  for (std::int64_t b = 0; b < ids.shape[0]; ++b)
    std::copy_n(ids.as<std::int64_t>() + b * ids.shape[1], columns, out + b * columns);
  return out;
}

// The positions that predict a label, among the first `columns` columns.
struct LabelledRows {
  std::int64_t count;
  std::int64_t *source, *inverse, *targets;  // [count], [batch * columns], [count]
};

LabelledRows labelled_rows(IntegerBlock& inputs, const ConstView& labels, std::int64_t columns, std::int64_t count) {
  const std::int64_t batch = labels.shape[0], time = labels.shape[1];
  const LabelledRows rows{count, inputs.take(count), inputs.take(batch * columns), inputs.take(count)};
  std::fill_n(rows.source, count, -1);
  std::fill_n(rows.targets, count, kIgnoreIndex);
  std::int64_t next = 0;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < columns; ++t) {
      const std::int64_t label = t + 1 < time ? labels.as<std::int64_t>()[b * time + t + 1] : kIgnoreIndex;
      rows.inverse[b * columns + t] = label == kIgnoreIndex ? -1 : next;
      if (label == kIgnoreIndex) continue;
      rows.source[next] = b * columns + t;
      rows.targets[next++] = label;
    }
  return rows;
}

// labels moved one column to the left: what each position predicts.
std::int64_t* shifted(IntegerBlock& inputs, const ConstView& labels) {
  const std::int64_t batch = labels.shape[0], time = labels.shape[1];
  std::int64_t* out = inputs.take(batch * time);
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < time; ++t)
      out[b * time + t] = t + 1 < time ? labels.as<std::int64_t>()[b * time + t + 1] : kIgnoreIndex;
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
      if (labels.as<std::int64_t>()[b * time + t] != kIgnoreIndex) {
        last = std::max(last, t);
        ++labelled;
      }
  const bool skip = padding == Padding::skip;
  const std::int64_t columns =
      skip && !thinker.config().use_moe ? std::clamp<std::int64_t>(round_up(last, kColumnUnit), 1, time) : time;
  const std::int64_t positions = batch * columns;
  const std::int64_t count = skip ? std::min(round_up(labelled, kRowUnit), positions) : 0;
  IntegerBlock inputs(3 * positions + 2 * count);
  const std::int64_t* ids = first_columns(inputs, input_ids, columns);
  const LabelledRows rows = skip ? labelled_rows(inputs, labels, columns, count) : LabelledRows{};
  const std::int64_t* targets = skip ? rows.targets : shifted(inputs, labels);
  inputs.upload(tape);

  const Thinker::Output out = thinker(tape, inputs.on_device(ids, {batch, columns}), {}, 0, observer);
  Tensor hidden = Tape::reshaped(out.hidden, {positions, out.hidden.width()});
  if (skip)
    hidden =
        gather_rows(tape, hidden, inputs.on_device(rows.source, {count}), inputs.on_device(rows.inverse, {positions}));
  const Tensor logits = thinker.logits(tape, hidden);  // [count, vocab_size], or [batch * time, vocab_size]
  if (observer && !skip) observer("text_logits", Tape::reshaped(logits, {batch, time, logits.width()}));
  TextLoss result{{}, {}, out.aux_loss, labelled};
  result.text_loss = cross_entropy(tape, logits, inputs.on_device(targets, {skip ? count : positions}));
  result.loss = out.aux_loss ? add(tape, result.text_loss, out.aux_loss) : result.text_loss;
  return result;
}

}  // namespace omni
