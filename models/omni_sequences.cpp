#include "models/omni_sequences.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/elementwise/elementwise.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/select_rows/select_rows.h"

namespace omni {

OmniSequences::Layout::Layout(std::int64_t rows) : count(0) {
  const auto take = [&](std::int64_t size) {
    count += size;
    return count - size;
  };
  starts = take(rows);
  lengths = take(rows);
  text = take(rows);
  reading = take(rows);
  bridge = take(rows);
  speaker_source = take(rows);
  codes = take(kCodebooks * rows);
  codes_in_tables = take(kCodebooks * rows);
  end_of_step = count;
  codebook_starts = take(kCodebooks + 1);
  by_codebook = take(kCodebooks * rows);
  by_position = take(kCodebooks * rows);
}

OmniSequences::OmniSequences(Device& device, OmniModel& model, std::int64_t rows, std::int64_t capacity)
    : tape_(device, false),
      model_(model),
      rows_(rows),
      capacity_(std::min(capacity, model.config.thinker.max_position_embeddings)),
      layout_(rows),
      lengths_(static_cast<std::size_t>(rows)),
      has_speaker_(static_cast<std::size_t>(rows)),
      ahead_(static_cast<std::size_t>(rows)),
      inputs_(DType::i64, {layout_.count}, device.place()),
      inputs_on_host_(static_cast<std::size_t>(layout_.count)),
      range_(DType::i64, {2}, device.place()),
      speakers_(model.store.dtype(), {rows, model.config.spk_emb_size}, device.place()),
      text_hidden_(model.store.dtype(), {rows, model.config.thinker.hidden_size}, device.place()),
      audio_hidden_(model.store.dtype(), {rows, model.config.talker_hidden_size}, device.place()),
      bridges_(model.store.dtype(), {rows * kMostAhead, model.config.thinker.hidden_size}, device.place()),
      text_logits_(DType::f32, {rows, model.config.thinker.vocab_size}, device.place()),
      audio_logits_(DType::f32, {kCodebooks * rows, model.config.audio_vocab_size}, device.place()) {
  if (rows < 1 || capacity_ < 1)
    throw std::invalid_argument("generation: expected room for at least one sequence of one position, found " +
                                std::to_string(rows) + " of " + std::to_string(capacity_));
  add_layers(caches_.thinker, model.config.thinker);
  add_layers(caches_.talker, model.config.talker());
  std::int64_t* host = inputs_on_host_.data();
  write_codebook_maps(rows, host + layout_.codebook_starts, host + layout_.by_codebook, host + layout_.by_position);
  device.copy(inputs_, view_of(host, {layout_.count}));
}

void OmniSequences::add_layers(std::vector<KeyValueCache>& caches, const ThinkerConfig& config) {
  const Shape shape{rows_, capacity_, config.num_key_value_heads, config.head_dim};
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const View k = memory_.emplace_back(model_.store.dtype(), shape, tape_.device().place()),
               v = memory_.emplace_back(model_.store.dtype(), shape, tape_.device().place());
    caches.push_back({k, v, input(layout_.starts, {rows_}), input(layout_.lengths, {rows_})});
  }
}

OmniCaches OmniSequences::caches_of(std::int64_t row, std::int64_t begin, std::int64_t end) {
  Device& device = tape_.device();
  const std::int64_t range[] = {begin, end};
  device.copy(range_, view_of(range, {2}));
  const View starts = slice(range_.view(), 0, {1}), ends = slice(range_.view(), 1, {1});
  const auto restricted = [&](const std::vector<KeyValueCache>& all) {
    std::vector<KeyValueCache> out;
    for (const KeyValueCache& cache : all) {
      const Shape shape{1, cache.k.shape[1], cache.k.shape[2], cache.k.shape[3]};
      const std::int64_t offset = row * shape.count();
      out.push_back({slice(cache.k, offset, shape), slice(cache.v, offset, shape), starts, ends});
    }
    return out;
  };
  // On a GPU the table of angles must not move under a recording.
  return {restricted(caches_.thinker), restricted(caches_.talker), device.is_cpu() ? end : capacity_};
}

void OmniSequences::clear(std::int64_t row) {
  lengths_[static_cast<std::size_t>(row)] = 0;
  ahead_[static_cast<std::size_t>(row)] = {};
}

void OmniSequences::show(std::int64_t row, const SpeechPrompt& prompt) {
  const std::vector<std::int64_t> ids = prompt_rows(model_.config, prompt);
  const auto time = static_cast<std::int64_t>(prompt.ids.size());
  if (time > capacity_)
    throw std::runtime_error("generation: " + std::to_string(time) + " tokens do not fit into a context of " +
                             std::to_string(capacity_));
  const auto batched = [](const ConstView& view) {
    if (!view) return view;
    ConstView out = view;
    out.shape = view.shape.rank() == 1 ? Shape{1, view.shape[0]} : Shape{1, view.shape[0], view.shape[1]};
    return out;
  };
  const std::int64_t audio_rows = prompt.audio_states ? prompt.audio_states.rows() : 0;
  OmniBatch batch;
  batch.input_ids = view_of(ids.data(), {1, kCodebooks + 1, time});
  batch.audio_states = batched(prompt.audio_states);
  if (batch.audio_states) batch.audio_lens = view_of(&audio_rows, {1});
  batch.image_states = batched(prompt.image_states);
  batch.spk_emb = batched(prompt.spk_emb);

  Device& device = tape_.device();
  clear(row);
  tape_.reset();
  const OmniInputs inputs = upload_inputs(tape_, model_.config, batch, model_.store.dtype());
  const Omni::Output out = model_.omni(tape_, inputs, {}, caches_of(row, 0, time));
  const auto keep_last = [&](const OwnedTensor& to, const View& from, std::int64_t from_row) {
    const Shape shape{1, from.width()};
    device.copy(slice(to.view(), row * from.width(), shape), slice(from, from_row * from.width(), shape));
  };
  keep_last(text_hidden_, out.text_hidden, time - 1);
  keep_last(audio_hidden_, out.audio_hidden, time - 1);
  if (inputs.speaker) keep_last(speakers_, inputs.speaker, 0);
  has_speaker_[static_cast<std::size_t>(row)] = static_cast<bool>(inputs.speaker);
  lengths_[static_cast<std::size_t>(row)] = time;
}

void OmniSequences::read_ahead(std::int64_t row, std::span<const std::int64_t> text) {
  const std::int64_t begin = length(row), limit = std::min(kMostAhead, capacity_ - begin),
                     time = std::min(static_cast<std::int64_t>(text.size()), limit);
  if (time < 1) return;
  tape_.reset();
  OmniInputs inputs;
  inputs.batch = 1;
  inputs.time = time;
  inputs.text_ids = tape_.upload(view_of(text.data(), {1, time}));
  const Tensor bridge = model_.omni.think(tape_, inputs, {}, caches_of(row, begin, begin + time), true).bridge;
  const std::int64_t width = bridge.width();
  tape_.device().copy(slice(bridges_.view(), row * kMostAhead * width, {time, width}),
                      Tape::reshaped(bridge, {time, width}));
  ahead_[static_cast<std::size_t>(row)] = {begin, begin + time};
}

OmniInputs OmniSequences::step_inputs() const {
  OmniInputs out;
  out.batch = rows_;
  out.time = 1;
  out.text_ids = input(layout_.text, {rows_, 1});
  out.codes = input(layout_.codes, {kCodebooks * rows_});
  out.codes_in_tables = input(layout_.codes_in_tables, {kCodebooks * rows_});
  out.maps.starts = input(layout_.codebook_starts, {kCodebooks + 1});
  out.maps.by_codebook = input(layout_.by_codebook, {kCodebooks * rows_});
  out.maps.by_position = input(layout_.by_position, {kCodebooks * rows_});
  out.speaker = speakers_.view();
  out.speaker_source = input(layout_.speaker_source, {rows_});
  return out;
}

// The integers of a step, on the device.
void OmniSequences::write_step(std::span<const Step> steps) {
  std::int64_t* host = inputs_on_host_.data();
  std::int64_t longest = 1;
  for (std::int64_t row = 0; row < rows_; ++row) {
    const Step& step = steps[static_cast<std::size_t>(row)];
    const std::int64_t length = lengths_[static_cast<std::size_t>(row)];
    if (step.reads && length >= capacity_)
      throw std::runtime_error("generation: the context of " + std::to_string(capacity_) + " tokens is full");
    // A row that does not read writes to a place that it will write again, or to none that counts.
    const std::int64_t start = std::min(length, capacity_ - 1);
    host[layout_.starts + row] = start;
    host[layout_.lengths + row] = start + 1;
    longest = std::max(longest, start + 1);
    host[layout_.text + row] = step.text;
    host[layout_.reading + row] = step.reads ? row : -1;
    host[layout_.bridge + row] =
        row * kMostAhead + (is_ahead(row) ? length - ahead_[static_cast<std::size_t>(row)].begin : 0);
    const bool is_speaker =
        has_speaker_[static_cast<std::size_t>(row)] && step.codes[0] == model_.config.audio_spk_token;
    host[layout_.speaker_source + row] = is_speaker ? row : -1;
    for (std::int64_t q = 0; q < kCodebooks; ++q) {
      const std::int64_t code = step.codes[static_cast<std::size_t>(q)];
      host[layout_.codes + row * kCodebooks + q] = code;
      host[layout_.codes_in_tables + q * rows_ + row] = code + q * model_.config.audio_vocab_size;
    }
  }
  Device& device = tape_.device();
  device.copy(input(0, {layout_.end_of_step}), view_of(host, {layout_.end_of_step}));
  caches_.positions = device.is_cpu() ? longest : capacity_;
}

// Takes over the last hidden state of the rows that read.
void OmniSequences::keep_hidden(const View& kept, const Tensor& hidden) {
  tape_.run(SelectRows{
      .y = kept, .x = kept, .from = Tape::reshaped(hidden, kept.shape), .source = input(layout_.reading, {rows_})});
}

void OmniSequences::run_whole() {
  tape_.reset();
  const Omni::Output out = model_.omni(tape_, step_inputs(), {}, caches_);
  keep_hidden(text_hidden_, out.text_hidden);
  keep_hidden(audio_hidden_, out.audio_hidden);
}

void OmniSequences::run_talker() {
  tape_.reset();
  const Tensor bridge = tape_.constant(bridges_.view().dtype, {rows_, 1, bridges_.view().width()});
  tape_.run(GatherRows{
      .y = Tape::reshaped(bridge, {rows_, bridge.width()}), .x = bridges_, .source = input(layout_.bridge, {rows_})});
  keep_hidden(audio_hidden_, model_.omni.speak(tape_, step_inputs(), bridge, {}, caches_).hidden);
}

void OmniSequences::append(std::span<const Step> steps) {
  write_step(steps);
  bool all_ahead = true;
  for (std::int64_t row = 0; row < rows_; ++row)
    all_ahead &= !steps[static_cast<std::size_t>(row)].reads || is_ahead(row);
  if (all_ahead)
    tape_.device().run_recurring(talker_, [&] { run_talker(); });
  else
    tape_.device().run_recurring(whole_, [&] { run_whole(); });
  for (std::int64_t row = 0; row < rows_; ++row)
    if (steps[static_cast<std::size_t>(row)].reads) ++lengths_[static_cast<std::size_t>(row)];
}

OmniSequences::Logits OmniSequences::logits(bool text) {
  tape_.device().run_recurring(text ? heads_ : audio_heads_, [&] {
    tape_.reset();
    if (text) tape_.run(model_.omni.text_head_weight().product(text_logits_, text_hidden_));
    tape_.run(Copy{.y = audio_logits_,
                   .x = model_.omni.audio_logits(tape_, Tensor(audio_hidden_.view()), step_inputs().maps)});
  });
  return {text_logits_, audio_logits_};
}

}  // namespace omni
