#pragma once
// What every instruction of the engine is made of. An instruction is a plain struct: its operands as views, its
// constants, and three members:
//
//   static constexpr const char* name;
//   void check(Check& that) const;   // preconditions, in the words of Check; kernels themselves check nothing
//   Work work() const;               // bytes that must move and floating-point operations, for the roofline
//
// `void run(const CpuContext&, const Op&)` executes it on the CPU, `void run(const CudaContext&, const Op&)` on a GPU.
// Device::run (engine/device.h) is the only caller outside tests.
//
// Gradient convention, the same everywhere: gradients of activations are overwritten; gradients of parameters are
// overwritten when `accumulate` is false and added to when it is true.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/rounding.h"
#include "kernels/view.h"

namespace omni {

// Cost of an instruction: bytes that it must read or write at least once, floating-point operations, and the dtype of
// the units that do them (bf16 only for matrix products of bf16 operands).
struct Work {
  std::int64_t bytes = 0;
  std::int64_t flops = 0;
  DType unit = DType::f32;
};

// An operand as check() sees it: an instruction holds what it may write as View, all else as ConstView.
struct Operand : ConstView {
  bool written = false;

  Operand() = default;
  Operand(const View& view) : ConstView(view), written(true) {}        // NOLINT: a view is an operand
  Operand(const ConstView& view) : ConstView(view), written(false) {}  // NOLINT
};

struct NamedOperand {
  std::string name;
  Operand view;
};

// Verifies the operands of one instruction. Throws std::invalid_argument naming instruction and operand. It also
// collects what it has seen, so that a trace can list the operands of each op.
class Check {
 public:
  // `place`: whose memory the operands must lie in.
  explicit Check(const char* instruction, bool collect = false, Place place = Place::host)
      : instruction_(instruction), collect_(collect), place_(place) {}

  // All views (names: "y, gate, up") have one shape and dtype. An absent one is an error.
  template <class... Views>
  void same(const char* names, const Views&... views) {
    const Operand all[] = {views...};
    same_list(names, all);
  }
  // The view is there and has this dtype and shape.
  void operand(const char* name, const Operand& view, DType dtype, const Shape& shape) {
    list(name, view);
    if (!view) fail(std::string(name) + " is missing");
    if (view.dtype != dtype || !(view.shape == shape))
      fail(std::string(name) + " must be " + name_of(dtype) + " " + shape.text() + ", found " + text(view));
  }
  // As operand(), for a view that may be absent.
  void optional(const char* name, const Operand& view, DType dtype, const Shape& shape) {
    if (view) operand(name, view, dtype, shape);
  }
  // The view is there and has this rank.
  void rank(const char* name, const Operand& view, int rank) {
    list(name, view);
    if (!view) fail(std::string(name) + " is missing");
    if (view.shape.rank() != rank)
      fail(std::string(name) + " must have " + std::to_string(rank) + " dimensions, found " + text(view));
  }
  // The view is there, has this dtype, and seen as a matrix (dimensions before the last joined) this size.
  void matrix(const char* name, const Operand& view, DType dtype, std::int64_t rows, std::int64_t width) {
    list(name, view);
    if (!view || view.dtype != dtype || view.rows() != rows || view.width() != width)
      fail(std::string(name) + " must be " + name_of(dtype) + " with " + std::to_string(rows) + " rows of width " +
           std::to_string(width) + ", found " + text(view));
  }
  // Any other condition, with what was expected in words.
  void that(bool holds, std::string_view expected) {
    if (!holds) fail(std::string(expected));
  }

  // The operands seen so far, each once; empty unless asked to collect.
  const std::vector<NamedOperand>& operands() const { return operands_; }
  std::string operands_text() const;  // "y f32 [2, 3], gate f32 [2, 3]"

  static std::string text(const ConstView& view) {
    return view ? std::string(name_of(view.dtype)) + " " + view.shape.text() : std::string("nothing");
  }

 private:
  [[noreturn]] void fail(const std::string& message) const;
  void same_list(const char* names, std::span<const Operand> views);
  bool is_reachable(const ConstView& view) const { return view.place == place_ || view.place == Place::managed; }
  void list(const char* name, const Operand& view) {
    if (view && !is_reachable(view))
      fail(std::string(name) + " must lie in " + name_of(place_) + " memory, found " + name_of(view.place));
    if (collect_) collect(name, view);
  }
  void collect(const char* name, const Operand& view);

  const char* instruction_;
  bool collect_;
  Place place_;
  std::vector<NamedOperand> operands_;
};

// Where a CPU instruction runs: the number of OpenMP threads and their scratch memory.
struct CpuContext {
  int threads = 1;
  Workspace* workspace = nullptr;

  // `count` values of T for each of `parts` users (threads, tasks): part p starts at the returned pointer + p * stride.
  template <class T>
  struct Scratch {
    T* data;
    std::int64_t stride;
    T* part(std::int64_t p) const { return data + p * stride; }
  };
  template <class T>
  Scratch<T> scratch(std::int64_t parts, std::int64_t count) const {
    const std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t stride = round_up(count, line);  // no two parts share a cache line
    return {reinterpret_cast<T*>(workspace->get(static_cast<std::size_t>(parts * stride) * sizeof(T))), stride};
  }
};

// What a CUDA kernel found wrong with the values in its operands; it clamps them and goes on. The device reads this
// when it next waits for its stream, and throws.
struct CudaFault {
  enum Kind : std::int32_t { none, embedding_id, cross_entropy_target, sampling_logit };
  Kind kind;
  std::int64_t value, limit;  // value is not in 0 .. limit - 1; for sampling_logit, the token whose logit is NaN
};

// Where a CUDA instruction runs. Pointers to CUDA's own types are void*, so that this header needs none of CUDA's.
struct CudaContext {
  void* stream = nullptr;          // cudaStream_t; every instruction only enqueues on it
  void* blas = nullptr;            // cublasLtHandle_t
  Workspace* workspace = nullptr;  // in GPU memory; one user at a time, in stream order
  CudaFault* fault = nullptr;      // pinned
  int multiprocessors = 0;
};

}  // namespace omni
