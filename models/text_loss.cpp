#include "models/text_loss.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gather_rows.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "models/integer_block.h"

namespace omni {
namespace {

// The positions that are computed: of each sequence so many from its beginning, one sequence behind the other.
struct Computed {
  std::vector<std::int64_t> lengths;  // per sequence
  std::int64_t columns;               // what the longest is rounded up to
  std::int64_t rows;                  // all of them, rounded up
  bool packed() const { return rows < static_cast<std::int64_t>(lengths.size()) * columns; }
};

Computed all_of(std::int64_t batch, std::int64_t time) {
  return {std::vector<std::int64_t>(static_cast<std::size_t>(batch), time), time, batch * time};
}

// What comes before the last label of each sequence.
Computed up_to_last_label(const ConstView& labels) {
  const std::int64_t batch = labels.shape[0], time = labels.shape[1];
  Computed out = all_of(batch, 0);
  std::int64_t longest = 0, sum = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    std::int64_t last = time - 1;
    while (last > 0 && labels.as<std::int64_t>()[b * time + last] == kIgnoreIndex) --last;
    out.lengths[static_cast<std::size_t>(b)] = last;
    longest = std::max(longest, last);
    sum += last;
  }
  out.columns = std::clamp<std::int64_t>(round_up(longest, kColumnUnit), 1, time);
  out.rows = std::max<std::int64_t>(round_up(sum, kRowUnit), 1);
  // A batch without much padding stays as it is.
  return out.rows < batch * out.columns ? out : all_of(batch, out.columns);
}

// What a pass reads about the computed rows.
struct RowInputs {
  std::int64_t *ids, *row_at, *position_of;  // [rows], [batch * columns], [rows]: see PackedRows
  std::int64_t *source, *inverse,
      *targets;  // [picked], [rows], [picked]: the rows that go to the head, and their labels
};

// `picked` rows go to the head: all, or those with a label. The label of position t is what it predicts, that of t + 1.
RowInputs row_inputs(IntegerBlock& block, const Computed& computed, const ConstView& input_ids, const ConstView& labels,
                     std::int64_t picked) {
  const std::int64_t time = labels.shape[1], positions = labels.shape[0] * computed.columns;
  const auto take = [&](std::int64_t count, std::int64_t value) {
    std::int64_t* out = block.take(count);
    std::fill_n(out, count, value);
    return out;
  };
  const RowInputs in{take(computed.rows, 0), take(positions, -1),     take(computed.rows, -1),
                     take(picked, -1),       take(computed.rows, -1), take(picked, kIgnoreIndex)};
  std::int64_t row = 0, next = 0;
  for (std::int64_t b = 0; b < labels.shape[0]; ++b)
    for (std::int64_t t = 0; t < computed.lengths[static_cast<std::size_t>(b)]; ++t, ++row) {
      in.ids[row] = input_ids.as<std::int64_t>()[b * time + t];
      in.row_at[b * computed.columns + t] = row;
      in.position_of[row] = b * computed.columns + t;
      const std::int64_t label = t + 1 < time ? labels.as<std::int64_t>()[b * time + t + 1] : kIgnoreIndex;
      if (label == kIgnoreIndex && picked < computed.rows) continue;
      in.inverse[row] = next;
      in.source[next] = row;
      in.targets[next++] = label;
    }
  return in;
}

}  // namespace

TextLoss text_loss(Tape& tape, Thinker& thinker, const ConstView& input_ids, const ConstView& labels, Padding padding,
                   const Observer& observer) {
  const std::int64_t batch = input_ids.shape[0], time = input_ids.shape[1];
  if (input_ids.dtype != DType::i64 || labels.dtype != DType::i64 || !(input_ids.shape == labels.shape) ||
      input_ids.shape.rank() != 2)
    throw std::invalid_argument("text_loss: input_ids and labels must both be i64 [batch, time], found " +
                                Check::text(input_ids) + " and " + Check::text(labels));
  std::int64_t labelled = 0;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 1; t < time; ++t) labelled += labels.as<std::int64_t>()[b * time + t] != kIgnoreIndex;
  const bool skip = padding == Padding::skip;
  const Computed computed = skip && !thinker.config().use_moe ? up_to_last_label(labels) : all_of(batch, time);
  const std::int64_t rows = computed.rows, positions = batch * computed.columns;
  const std::int64_t picked = skip ? std::min(round_up(labelled, kRowUnit), rows) : rows;
  IntegerBlock block(3 * rows + positions + 2 * picked);
  const RowInputs in = row_inputs(block, computed, input_ids, labels, picked);
  block.upload(tape);

  ThinkerExtras extras;
  if (computed.packed())
    extras.packed = {batch, computed.columns, block.on_device(in.row_at, {positions}),
                     block.on_device(in.position_of, {rows})};
  const Shape shape = computed.packed() ? Shape{1, rows} : Shape{batch, computed.columns};
  const Thinker::Output out = thinker(tape, block.on_device(in.ids, shape), {}, 0, observer, extras);
  Tensor hidden = Tape::reshaped(out.hidden, {rows, out.hidden.width()});
  if (picked < rows)
    hidden = gather_rows(tape, hidden, block.on_device(in.source, {picked}), block.on_device(in.inverse, {rows}));
  const Tensor logits = thinker.logits(tape, hidden);  // [picked, vocab_size]
  if (observer && !skip) observer("text_logits", Tape::reshaped(logits, {batch, time, logits.width()}));
  TextLoss result{{}, {}, out.aux_loss, labelled};
  result.text_loss = cross_entropy(tape, logits, block.on_device(in.targets, {picked}));
  result.loss = out.aux_loss ? add(tape, result.text_loss, out.aux_loss) : result.text_loss;
  return result;
}

}  // namespace omni
