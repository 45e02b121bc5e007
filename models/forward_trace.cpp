#include "models/forward_trace.h"

#include <stdexcept>

#include "models/text_loss.h"

namespace omni {

std::vector<NamedTensor> trace_forward(Device& device, ThinkerModel& model, const ConstView& input_ids,
                                       const ConstView& labels, bool gradients) {
  if (gradients && !labels) throw std::invalid_argument("trace: gradients need labels");
  std::vector<NamedTensor> out;
  const Observer record = [&](const std::string& name, const ConstView& value) {
    out.push_back({name, OwnedTensor(DType::f32, value.shape)});
    std::vector<OwnedTensor> memory;
    copy_converted(device.on_host(value, memory), out.back().tensor);
  };
  Tape tape(device);  // recording: the balancing loss exists in training only
  if (!labels) {
    const Thinker::Output forward = model.thinker(tape, tape.upload(input_ids), {}, 0, record);
    record("text_logits", model.thinker.logits(tape, forward.hidden));
    return out;
  }
  model.store.forget_gradients();
  const TextLoss loss = text_loss(tape, model.thinker, input_ids, labels, Padding::compute, record);
  record("loss", loss.loss);
  record("text_loss", loss.text_loss);
  if (loss.aux_loss)
    record("aux_loss", loss.aux_loss);
  else
    out.push_back({"aux_loss", OwnedTensor(DType::f32, {1})});
  if (!gradients) return out;
  tape.backward(loss.loss);
  model.store.complete_gradients();
  for (const auto& [name, gradient] : model.store.named_gradients()) record("grad." + name, gradient);
  return out;
}

}  // namespace omni
