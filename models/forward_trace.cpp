#include "models/forward_trace.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "models/text_loss.h"

namespace omni {
namespace {

// Copies what it is shown to the host, as f32.
class Recorder {
 public:
  Recorder(Tape& tape, std::vector<NamedTensor>& out, StepRecorder* steps)
      : device_(tape.device()), out_(out), steps_(steps) {
    if (steps_) steps_->begin(tape);
  }
  ~Recorder() { finish(); }
  Recorder(Recorder&&) = delete;

  void operator()(const std::string& name, const ConstView& value) const {
    if (steps_) steps_->name_result(name, value);
    out_.push_back({name, OwnedTensor(DType::f32, value.shape)});
    std::vector<OwnedTensor> memory;
    copy_converted(device_.on_host(value, memory), out_.back().tensor);
  }
  // aux_loss is a zero where there are no experts.
  void aux_loss(const Tensor& loss) const {
    if (loss)
      (*this)("aux_loss", loss);
    else
      out_.push_back({"aux_loss", OwnedTensor(DType::f32, {1})});
  }
  void gradients(ParameterStore& store) const {
    finish();
    store.complete_gradients();
    for (const auto& [name, gradient] : store.named_gradients()) (*this)("grad." + name, gradient);
  }

 private:
  void finish() const {
    if (steps_) steps_->end();
  }

  Device& device_;
  std::vector<NamedTensor>& out_;
  StepRecorder* steps_;
};

// [8, batch, time, codes] -> [batch, 8, time, codes]
OwnedTensor by_sample(const OwnedTensor& by_codebook) {
  const Shape& shape = by_codebook.view().shape;
  OwnedTensor out(DType::f32, {shape[1], shape[0], shape[2], shape[3]});
  const std::int64_t block = shape[2] * shape[3];
  for (std::int64_t c = 0; c < shape[0]; ++c)
    for (std::int64_t b = 0; b < shape[1]; ++b)
      std::copy_n(by_codebook.as<float>() + (c * shape[1] + b) * block, block,
                  out.as<float>() + (b * shape[0] + c) * block);
  return out;
}

}  // namespace

std::vector<NamedTensor> trace_forward(Device& device, ThinkerModel& model, const ConstView& input_ids,
                                       const ConstView& labels, bool gradients, StepRecorder* recorder) {
  if (gradients && !labels) throw std::invalid_argument("trace: gradients need labels");
  std::vector<NamedTensor> out;
  Tape tape(device);  // recording: the balancing loss exists in training only
  const Recorder record(tape, out, recorder);
  if (!labels) {
    const Thinker::Output forward = model.thinker(tape, tape.upload(input_ids), {}, 0, std::ref(record));
    record("text_logits", model.thinker.logits(tape, forward.hidden));
    return out;
  }
  model.store.forget_gradients();
  const TextLoss loss = text_loss(tape, model.thinker, input_ids, labels, Padding::compute, std::ref(record));
  record("loss", loss.loss);
  record("text_loss", loss.text_loss);
  record.aux_loss(loss.aux_loss);
  if (!gradients) return out;
  tape.backward(loss.loss);
  record.gradients(model.store);
  return out;
}

std::vector<NamedTensor> trace_omni(Device& device, OmniModel& model, const OmniBatch& batch, bool gradients,
                                    StepRecorder* recorder) {
  if (gradients && !batch.text_labels) throw std::invalid_argument("trace: gradients need labels");
  std::vector<NamedTensor> out;
  Tape tape(device);
  const Recorder record(tape, out, recorder);
  model.store.forget_gradients();
  const OmniInputs inputs = upload_inputs(tape, model.config, batch, model.store.dtype());
  if (!batch.text_labels) {
    const Omni::Output forward = model.omni(tape, inputs, std::ref(record));
    record("text_logits", model.omni.text_logits(tape, forward.text_hidden));
    const Tensor logits = model.omni.audio_logits(tape, forward.audio_hidden, inputs.maps);
    record("audio_logits", Tape::reshaped(logits, {kCodebooks, inputs.batch, inputs.time, logits.width()}));
  } else {
    const OmniLoss loss = omni_loss(tape, model.omni, inputs, std::ref(record));
    record("loss", loss.loss);
    record("text_loss", loss.text_loss);
    record("audio_loss", loss.audio_loss);
    record.aux_loss(loss.aux_loss);
    if (gradients) {
      tape.backward(loss.loss);
      record.gradients(model.store);
    }
  }
  for (NamedTensor& entry : out)
    if (entry.name == "audio_logits") entry.tensor = by_sample(entry.tensor);
  return out;
}

}  // namespace omni
