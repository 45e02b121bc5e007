#pragma once
// The tape: reverse-mode differentiation and nothing else.
//
// An op allocates its outputs, runs its forward instruction, and hands a closure to on_backward() that runs the
// backward instruction. backward() calls the closures in reverse order. A closure reads the gradients of its op's
// outputs and writes the gradients of its op's inputs through one object:
//
//   Tensor swiglu(Tape& tape, const Tensor& gate, const Tensor& up) {
//     Tensor y = tape.like(gate);
//     tape.run(SwiGlu{.y = y, .gate = gate, .up = up});
//     tape.on_backward([=](Gradients& d) {
//       d.run(SwiGluBackward{.dgate = d[gate], .dup = d[up], .dy = d[y], .gate = gate, .up = up});
//     });
//     return y;
//   }
//
// Who adds up: a tensor with several consumers gets its gradient from each of them. The first one to run writes into
// the tensor's gradient; d[x] gives later ones a scratch block, and the tape adds it when the closure returns. So
// backward instructions always overwrite. Parameters are the exception: their gradients outlive the step and accumulate
// over micro-batches, so their instructions take a flag (see ParameterGradient).
//
// Memory: outputs and closures lie in an arena that reset() empties; gradients of activations come from a pool and
// return to it as soon as their producer's closure has run. A step that repeats the shapes of the one before allocates
// nothing. The gradient of a parameter that no later op uses is written when the backward pass is done with all later
// ops: until then its memory can hold their activations (lend_gradients).

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd/parameter.h"
#include "engine/device.h"
#include "engine/memory.h"

namespace omni {

// An activation on the tape: a view with a number under which the tape keeps its gradient. Cheap to copy.
struct Tensor : View {
  static constexpr std::int32_t kNoGradient = -1;
  std::int32_t id = kNoGradient;

  Tensor() = default;
  Tensor(const View& view, std::int32_t number = kNoGradient)
      : View(view), id(number) {}  // NOLINT: constants are views
  bool needs_gradient() const { return id != kNoGradient; }
};

class Tape;

// The gradients as one closure sees them.
class Gradients {
 public:
  // Of an output of this op: the finished gradient (zeros if nothing consumed the output).
  // Of an input: where to write its gradient; absent if the input needs none.
  View operator[](const Tensor& tensor);
  // Whether anything consumed this output.
  bool has(const Tensor& output) const;
  // The gradient of an output as memory that may be overwritten; absent if nothing consumed the output.
  View take(const Tensor& output);
  // Makes `gradient`, which take() or scratch() returned, the gradient of an input, or adds it. One block may serve
  // several inputs: what is added later is added to a copy.
  void give(const Tensor& input, const View& gradient);
  // Memory for the duration of the closure, or until given to an input.
  View scratch(DType dtype, const Shape& shape);
  // Where to write a parameter's gradient, and whether it already holds something of this step.
  ParameterGradient operator[](Parameter& parameter) const { return parameter.accumulate(); }

  template <class Op>
  void run(const Op& op);

 private:
  friend class Tape;
  explicit Gradients(Tape& tape) : tape_(tape) {}
  Tape& tape_;
};

class Tape {
 public:
  // With recording off, ops only compute: the same model code serves training and inference.
  explicit Tape(Device& device, bool recording = true)
      : device_(device), recording_(recording), arena_(device.place()), pool_(device.place()) {}

  Device& device() { return device_; }
  bool recording() const { return recording_ && !paused_; }
  // Whether this is a pass of training, be the tape paused or not.
  bool training() const { return recording_; }
  // A flag of the tape that has another value while this exists.
  class Setting {
   public:
    ~Setting() { flag_ = before_; }
    Setting(const Setting&) = delete;
    Setting& operator=(const Setting&) = delete;

   protected:
    Setting(bool& flag, bool value) : flag_(flag), before_(flag) { flag = value; }

   private:
    bool &flag_, before_;
  };
  // While it exists and `condition` is true, ops of a training pass only compute, and their outputs need no gradient:
  // for parts that nothing below learns from.
  struct Pause : Setting {
    Pause(Tape& tape, bool condition) : Setting(tape.paused_, tape.paused_ || condition) {}
  };
  // While it exists, new activations may lie in lent memory, where the backward pass overwrites them: for those that
  // nobody but ops will read. `condition` false ends that for a while, for what somebody may read afterwards.
  struct Transient : Setting {
    explicit Transient(Tape& tape, bool condition = true) : Setting(tape.transient_, condition) {}
  };
  // Tells that no op recorded from now on, on this tape or another one before this one's backward pass, uses these
  // parameters: for activations of those ops the memory of the parameters' gradients is free. Where one of them already
  // has a gradient of this step it is not.
  void lend_gradients(const std::vector<const Parameter*>& parameters);
  // Whether ops save memory by making large activations again in the backward pass (feed_forward).
  bool recompute() const { return recompute_; }
  void set_recompute(bool recompute) { recompute_ = recompute; }

  // A new activation of undefined content, valid until reset().
  Tensor empty(DType dtype, const Shape& shape);
  Tensor like(const Tensor& tensor) { return empty(tensor.dtype, tensor.shape); }
  // A new activation in the memory of an older one whose value nobody needs any more.
  Tensor output_in(const Tensor& old);
  // A new activation whose memory becomes its gradient: its consumer overwrites the value by the gradient
  // (cross_entropy).
  Tensor empty_in_gradient(DType dtype, const Shape& shape);
  // A new activation without gradient: statistics that the backward pass needs, indices.
  Tensor constant(DType dtype, const Shape& shape);
  // A new activation without gradient that holds a copy of values in host memory.
  Tensor upload(const ConstView& values);
  // Memory that an op needs during its forward only; it goes back before the op returns.
  View borrow(DType dtype, const Shape& shape) { return pool_view(dtype, shape); }
  void give_back(const View& view) { release(view); }
  // A leaf whose gradient is wanted, over memory that the caller keeps. gradient_of() reads it after backward().
  Tensor leaf(const View& view);
  // The same memory with another shape, and the same gradient.
  static Tensor reshaped(const Tensor& tensor, const Shape& shape);

  template <class Op>
  void run(const Op& op) {
    device_.run(op);
  }

  // Registers the backward closure of the op whose outputs were made since the last call.
  template <class Closure>
  void on_backward(const Closure& closure, const std::source_location& where = std::source_location::current()) {
    static_assert(std::is_trivially_destructible_v<Closure>, "closures lie in the arena and are never destroyed");
    if (!recording()) return;
    void* memory = arena_.take(sizeof(Closure));
    new (memory) Closure(closure);
    nodes_.push_back({[](void* self, Gradients& d) { (*static_cast<Closure*>(self))(d); }, memory, first_output_,
                      static_cast<std::int32_t>(slots_.size()), nullptr, where});
    first_output_ = static_cast<std::int32_t>(slots_.size());
  }

  // For those who watch the instructions of a pass. The op at work: during the forward pass the one that the next
  // on_backward() completes, during the backward pass the one whose closure runs. Ops are numbered in forward order.
  std::size_t current_op() const {
    return current_ == nullptr ? nodes_.size() : static_cast<std::size_t>(current_ - nodes_.data());
  }
  bool in_backward() const { return current_ != nullptr; }
  std::size_t op_count() const { return nodes_.size(); }  // those that are complete
  // Where a complete op registered its closure: its function, file and line.
  const std::source_location& source_of(std::size_t op) const { return nodes_[op].where; }

  // Marks a place in the forward pass: when the backward pass has come down to it, the gradients of all parameters that
  // were declared at or after `parameter` are final. The listener is then called.
  void milestone(const Parameter& parameter);
  using MilestoneListener = std::function<void(const Parameter&)>;
  void set_milestone_listener(MilestoneListener listener) { milestone_listener_ = std::move(listener); }

  // Gradients of every leaf and parameter that `loss` depends on, given d(loss) = scale. loss: one element.
  void backward(const Tensor& loss, double scale = 1);
  // The same from tensors whose gradients are known: seed() copies one, backward() then starts from all of them.
  void seed(const Tensor& tensor, const ConstView& gradient);
  void backward();
  // The gradient of a leaf after backward(); absent if the loss does not depend on it.
  View gradient_of(const Tensor& leaf) const { return slots_[static_cast<std::size_t>(leaf.id)].gradient; }
  // Forgets all activations and closures; their memory is used again.
  void reset();

  // A second tape for parts that are made again in the backward pass (autograd/ops/recomputed.h).
  Tape& inner();

  std::size_t activation_bytes() const { return arena_.reserved() + (inner_ ? inner_->activation_bytes() : 0); }
  std::size_t gradient_bytes() const { return pool_.reserved() + (inner_ ? inner_->gradient_bytes() : 0); }
  std::uint64_t allocations() const {
    return arena_.allocations() + pool_.allocations() + (inner_ ? inner_->allocations() : 0);
  }

 private:
  friend class Gradients;
  struct Node {
    void (*call)(void*, Gradients&);
    void* closure;
    std::int32_t first_output, end_output;  // the ids of the op's outputs
    const Parameter* milestone = nullptr;   // then the node is no op
    std::source_location where;             // the call of on_backward()
  };
  struct Slot {
    View gradient;
    View value;  // empty_in_gradient: the tensor's memory until its consumer gives it as gradient
  };
  struct Addend {
    std::int32_t id;
    View gradient;
  };

  View pool_view(DType dtype, const Shape& shape);
  void retain(const View& gradient);
  void release(const View& gradient);
  void release_all(Slot& slot);
  void add_into(std::int32_t id, const View& gradient);
  void finish(const Node& node);

  Device& device_;
  bool recording_, paused_ = false, recompute_ = false, transient_ = false;
  Arena arena_;
  LentMemory lent_;
  Pool pool_;
  std::vector<Node> nodes_;
  std::vector<Slot> slots_;
  std::int32_t first_output_ = 0;
  std::unique_ptr<Tape> inner_;
  MilestoneListener milestone_listener_;
  // State of the closure that is running.
  const Node* current_ = nullptr;
  std::vector<Addend> addends_;
  std::vector<View> scratch_;
  std::vector<std::pair<void*, int>> shared_;  // gradient blocks and their number of holders
};

template <class Op>
void Gradients::run(const Op& op) {
  tape_.run(op);
}

}  // namespace omni
