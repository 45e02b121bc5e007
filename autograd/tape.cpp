#include "autograd/tape.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels/elementwise/elementwise.h"  // Fill, Add, Copy

namespace omni {

View Gradients::operator[](const Tensor& tensor) {
  if (!tensor.needs_gradient()) return {};
  Tape::Slot& slot = tape_.slots_[static_cast<std::size_t>(tensor.id)];
  const bool is_output = tensor.id >= tape_.current_->first_output && tensor.id < tape_.current_->end_output;
  if (is_output) {
    if (!slot.gradient) {
      slot.gradient = tape_.pool_view(tensor.dtype, tensor.shape);
      tape_.run(Fill{.y = slot.gradient, .value = 0});
    }
    View view = slot.gradient;
    view.shape = tensor.shape;
    return view;
  }
  const View view = tape_.pool_view(tensor.dtype, tensor.shape);
  if (slot.gradient)
    tape_.addends_.push_back({tensor.id, view});
  else
    slot.gradient = view;
  return view;
}

bool Gradients::has(const Tensor& output) const {
  return output.needs_gradient() && tape_.slots_[static_cast<std::size_t>(output.id)].gradient;
}

View Gradients::take(const Tensor& output) {
  if (!has(output)) return {};
  Tape::Slot& slot = tape_.slots_[static_cast<std::size_t>(output.id)];
  View mine = slot.gradient;
  slot.gradient = {};
  const auto holders = std::find_if(tape_.shared_.begin(), tape_.shared_.end(),
                                    [&](const auto& entry) { return entry.first == mine.data; });
  if (holders != tape_.shared_.end()) {  // somebody else still reads this block
    const View copy = tape_.pool_view(mine.dtype, mine.shape);
    tape_.run(Copy{.y = copy, .x = mine});
    tape_.release(mine);
    mine = copy;
  }
  tape_.scratch_.push_back(mine);
  mine.shape = output.shape;
  return mine;
}

void Gradients::give(const Tensor& input, const View& gradient) {
  if (!input.needs_gradient()) return;
  Tape::Slot& slot = tape_.slots_[static_cast<std::size_t>(input.id)];
  if (slot.gradient) {
    tape_.add_into(input.id, gradient);
  } else if (slot.value && slot.value.data == gradient.data) {
    std::swap(slot.gradient, slot.value);
  } else {
    slot.gradient = gradient;
    tape_.retain(gradient);
  }
}

View Gradients::scratch(DType dtype, const Shape& shape) {
  tape_.scratch_.push_back(tape_.pool_view(dtype, shape));
  return tape_.scratch_.back();
}

Tensor Tape::empty(DType dtype, const Shape& shape) {
  Tensor tensor = constant(dtype, shape);
  if (recording()) {
    tensor.id = static_cast<std::int32_t>(slots_.size());
    slots_.emplace_back();
  }
  return tensor;
}

Tensor Tape::output_in(const Tensor& old) {
  Tensor tensor{static_cast<const View&>(old)};
  if (recording()) {
    tensor.id = static_cast<std::int32_t>(slots_.size());
    View value;  // memory that is to become a gradient is now to become that of the new tensor
    if (old.needs_gradient()) std::swap(value, slots_[static_cast<std::size_t>(old.id)].value);
    slots_.push_back({.gradient = {}, .value = value});
  }
  return tensor;
}

Tensor Tape::empty_in_gradient(DType dtype, const Shape& shape) {
  if (!recording()) return constant(dtype, shape);
  const View memory = pool_view(dtype, shape);
  slots_.push_back({.gradient = {}, .value = memory});
  return Tensor(memory, static_cast<std::int32_t>(slots_.size()) - 1);
}

Tensor Tape::constant(DType dtype, const Shape& shape) {
  const std::size_t bytes = static_cast<std::size_t>(shape.count()) * size_of(dtype);
  void* memory = transient_ ? lent_.take(bytes) : nullptr;
  if (memory == nullptr) memory = arena_.take(bytes);
  return Tensor(View{{memory, dtype, shape, device_.place()}});
}

void Tape::lend_gradients(const std::vector<const Parameter*>& parameters) {
  const auto in_use = [](const Parameter* parameter) { return parameter->has_gradient || !parameter->gradient; };
  if (!recording_ || std::any_of(parameters.begin(), parameters.end(), in_use)) return;
  for (const Parameter* parameter : parameters)
    lent_.lend(static_cast<std::byte*>(parameter->gradient.data),
               static_cast<std::size_t>(parameter->gradient.bytes()));
}

Tensor Tape::upload(const ConstView& values) {
  const Tensor out = constant(values.dtype, values.shape);
  device_.copy(out, values);
  return out;
}

Tensor Tape::leaf(const View& view) {
  slots_.emplace_back();
  first_output_ = static_cast<std::int32_t>(slots_.size());
  return Tensor(view, first_output_ - 1);
}

Tensor Tape::reshaped(const Tensor& tensor, const Shape& shape) {
  if (shape.count() != tensor.count())
    throw std::invalid_argument("reshape of " + tensor.shape.text() + " to " + shape.text());
  Tensor out = tensor;
  out.shape = shape;
  return out;
}

View Tape::pool_view(DType dtype, const Shape& shape) {
  return {{pool_.take(static_cast<std::size_t>(shape.count()) * size_of(dtype)), dtype, shape, device_.place()}};
}

// One holder is the normal case and is not written down.
void Tape::retain(const View& gradient) {
  const auto is_scratch = [&](const View& view) { return view.data == gradient.data; };
  const auto scratch = std::find_if(scratch_.begin(), scratch_.end(), is_scratch);
  if (scratch != scratch_.end()) {  // moves from the closure to the input
    scratch_.erase(scratch);
    return;
  }
  for (auto& [data, holders] : shared_)
    if (data == gradient.data) {
      ++holders;
      return;
    }
  shared_.emplace_back(gradient.data, 2);
}

void Tape::release(const View& gradient) {
  for (std::size_t i = 0; i < shared_.size(); ++i)
    if (shared_[i].first == gradient.data) {
      if (--shared_[i].second == 1) shared_.erase(shared_.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  pool_.give_back(gradient.data);
}

void Tape::release_all(Slot& slot) {
  for (View* view : {&slot.gradient, &slot.value}) {
    if (*view) release(*view);
    *view = {};
  }
}

void Tape::add_into(std::int32_t id, const View& gradient) {
  Slot& slot = slots_[static_cast<std::size_t>(id)];
  View sum = slot.gradient;
  for (const auto& [data, holders] : shared_)
    if (data == sum.data) {  // the other holder must not see the sum
      sum = pool_view(gradient.dtype, gradient.shape);
      break;
    }
  View old = slot.gradient;
  old.shape = gradient.shape;
  sum.shape = gradient.shape;
  run(Add{.y = sum, .a = old, .b = gradient});
  if (sum.data != old.data) {
    release(old);
    slot.gradient = sum;
  }
}

void Tape::finish(const Node& node) {
  for (const Addend& addend : addends_) {
    add_into(addend.id, addend.gradient);
    release(addend.gradient);
  }
  addends_.clear();
  for (const View& view : scratch_) release(view);
  scratch_.clear();
  for (std::int32_t id = node.first_output; id < node.end_output; ++id) {
    Slot& slot = slots_[static_cast<std::size_t>(id)];
    release_all(slot);
  }
}

void Tape::milestone(const Parameter& parameter) {
  if (recording_) nodes_.push_back({nullptr, nullptr, first_output_, first_output_, &parameter, {}});
}

Tape& Tape::inner() {
  if (!inner_) inner_ = std::make_unique<Tape>(device_, recording_);
  return *inner_;
}

void Tape::backward(const Tensor& loss, double scale) {
  if (!recording_) throw std::logic_error("backward on a tape that does not record");
  if (loss.count() != 1 || !loss.needs_gradient()) throw std::invalid_argument("backward starts from one number");
  if (!nodes_.empty()) current_ = &nodes_.back();
  View seed = pool_view(loss.dtype, loss.shape);
  run(Fill{.y = seed, .value = scale});
  slots_[static_cast<std::size_t>(loss.id)].gradient = seed;
  backward();
}

void Tape::seed(const Tensor& tensor, const ConstView& gradient) {
  if (!tensor.needs_gradient()) return;
  Slot& slot = slots_[static_cast<std::size_t>(tensor.id)];
  slot.gradient = pool_view(tensor.dtype, tensor.shape);
  run(Copy{.y = slot.gradient, .x = gradient});
}

void Tape::backward() {
  Gradients d(*this);
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    if (node->milestone != nullptr) {
      if (milestone_listener_) milestone_listener_(*node->milestone);
      continue;
    }
    bool consumed = false;
    for (std::int32_t id = node->first_output; id < node->end_output; ++id)
      consumed = consumed || slots_[static_cast<std::size_t>(id)].gradient;
    if (!consumed) continue;  // the loss does not depend on this op
    current_ = &*node;
    node->call(node->closure, d);
    finish(*node);
  }
  current_ = nullptr;
}

void Tape::reset() {
  for (Slot& slot : slots_) release_all(slot);
  // What a closure left behind that threw.
  for (const Addend& addend : addends_) release(addend.gradient);
  for (const View& view : scratch_) release(view);
  addends_.clear();
  scratch_.clear();
  current_ = nullptr;
  nodes_.clear();
  slots_.clear();
  first_output_ = 0;
  arena_.reset();
  lent_.reset();
}

}  // namespace omni
