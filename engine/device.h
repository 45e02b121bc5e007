#pragma once
// Device: the only door to the kernels.

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/cuda_device.h"
#include "engine/memory.h"
#include "engine/profiler.h"
#include "kernels/cuda/runtime.h"
#include "kernels/instruction.h"

namespace omni {

// Finds the overload of an instruction's own header by argument-dependent lookup.
template <class Context, class Op>
void execute(const Context& context, const Op& op) {
  run(context, op);
}

// An instruction that has just run, for those who watch a device. The operands still hold their values.
struct Execution {
  const char* instruction;
  std::span<const NamedOperand> operands;
  Work work;
  double seconds;
};

class Device {
 public:
  // The CPU with `threads` OpenMP threads, 0 for as many as the process may use.
  static Device cpu(int threads = 0) { return Device(threads, nullptr); }
  // "cpu", "cuda" or "cuda:N". The latter are errors in a build without CUDA kernels. Plain "cuda" is the first GPU, or
  // for the process number `local_rank` of this machine another one, so that each has its own.
  static Device named(const std::string& name, int threads = 0, int local_rank = 0);

  // The CPU, but instructions are only checked and given to the profiler, not executed: what would a step cost?
  static Device dry() { return Device(1, nullptr, false); }

  Device(Device&&) = delete;  // contexts point into the device

  // Checks the instruction's operands, then executes it; profiled if the profiler is on, and shown to the observer. On
  // a GPU the instruction is enqueued and may still be at work when this returns.
  template <class Op>
  void run(const Op& op) {
    const bool listed = observer_ || profiler_.mode() == Profiler::Mode::list;
    Check check(Op::name, listed, place());
    op.check(check);
    if (!is_watched()) return execute_here(op);
    synchronize();
    const auto begin = std::chrono::steady_clock::now();
    execute_here(op);
    synchronize();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    if (profiler_.mode() != Profiler::Mode::off)
      profiler_.add(Op::name, check.operands_text(), op.work(), elapsed.count());
    if (observer_) observer_({Op::name, check.operands(), op.work(), elapsed.count()});
  }

  // Where the operands of instructions must lie.
  Place place() const { return cuda_ ? Place::cuda : Place::host; }
  bool is_cpu() const { return !cuda_; }
  // Copies the bytes of `from`, in order with the instructions, between any two places. Host memory that is read may be
  // changed as soon as this returns; host memory that is written holds the bytes when this returns.
  void copy(const View& to, const ConstView& from);
  // `view` itself if it lies in host memory, else a copy of it, which is added to `memory`.
  ConstView on_host(const ConstView& view, std::vector<OwnedTensor>& memory);
  // The one element of a view, when all instructions so far have run.
  template <class T>
  T read(const ConstView& view) {
    T value{};
    copy(view_of(&value, view.shape), view);
    return value;
  }
  // Waits until all instructions have run. Throws std::invalid_argument if one found a value that it cannot use.
  void synchronize();

  // Runs instructions that recur, the same ones on the same memory with other values in it. On a GPU they are recorded
  // as a CUDA graph the second time and replayed from then on, which spares the launches; `body` must not copy from or
  // to the host. With the profiler or an observer they run one by one.
  class Recurring {
   public:
    void forget() { *this = {}; }  // the instructions will be others

   private:
    friend class Device;
    bool warm_ = false;
    std::uint64_t generation_ = 0;
    std::shared_ptr<void> recording_;
  };
  void run_recurring(Recurring& recurring, const std::function<void()>& body);

  Profiler& profiler() { return profiler_; }
  // Called after each instruction, when it has run; it may copy() but not run(). Empty for nobody.
  using Observer = std::function<void(const Execution&)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }
  const CpuContext& cpu_context() const { return cpu_; }
  const CudaContext* cuda_context() const;  // null on the CPU
  std::string name() const;                 // "cpu", "cuda:0 NVIDIA GeForce RTX 3090"

 private:
  Device(int threads, std::shared_ptr<CudaDevice> cuda, bool executes = true);

  bool is_watched() const { return observer_ || profiler_.mode() != Profiler::Mode::off; }

  template <class Op>
  void execute_here(const Op& op) {
    if (!executes_) return;
    if constexpr (kHasCuda) {
      if (cuda_) return execute(cuda_->context(), op);
    }
    execute(cpu_, op);
  }

  Workspace workspace_;
  CpuContext cpu_;
  std::shared_ptr<CudaDevice> cuda_;
  bool executes_;
  Profiler profiler_;
  Observer observer_;
};

}  // namespace omni
