#pragma once
// Modules are plain structs of Parameter references and sub-modules. A module's constructor declares its parameters
// under a Scope, which carries the name prefix; the store then gives all of them memory at once:
//
//   struct Mlp {
//     explicit Mlp(const Scope& scope, ...) : down(scope.matrix("down_proj.weight", hidden, intermediate)) {}
//     Parameter& down;
//   };
//   ParameterStore store;
//   Mlp mlp(Scope(store) / "mlp", ...);
//   store.allocate(DType::bf16, Purpose::training, device);

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/parameter.h"
#include "engine/device.h"
#include "engine/memory.h"

namespace omni {

// Initial values of a parameter.
struct Initializer {
  enum class Kind { constant, normal, uniform };  // value; N(0, value^2); U(-value, value)
  Kind kind = Kind::constant;
  double value = 0;

  static Initializer constant(double value) { return {Kind::constant, value}; }
  static Initializer normal(double deviation) { return {Kind::normal, deviation}; }
  static Initializer uniform(double bound) { return {Kind::uniform, bound}; }
};

enum class Purpose { training, inference };

// Parameters begin at multiples of so many numbers in a block: on a cache line of their own in every dtype.
inline constexpr std::int64_t kParameterAlignment = 64;

// All parameters of a model, in a few contiguous blocks: f32 master values, gradients of the same layout, and for bf16
// a copy that ops read. Vectors (norm weights, biases) are always read in f32. Inference may also read whole numbers.
class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;  // modules hold references into it
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Declares a parameter of one or more parts with equal widths, one below the other in memory. Before allocate() only.
  Parameter& declare(std::vector<ParameterPart> parts, const Initializer& initializer);

  // Gives memory of the device to all parameters. dtype is what ops read matrices in: f32, bf16, or f64 for gradient
  // checks. Purpose::inference holds the read values only: no gradients, and no f32 master beside a bf16 copy. The
  // device must outlive the store.
  void allocate(DType dtype, Purpose purpose, Device& device);
  // Draws initial values; a parameter's numbers depend on the seed and its position among the declarations.
  void initialize(std::uint64_t seed);
  // After the master values were written from outside: refreshes the bf16 copy.
  void refresh_copy();
  // For inference on the CPU, allocated in f32 and filled: from here on all matrices are whole numbers from -127 to
  // 127 times a scale for each row, a quarter of the memory. Activations stay in f32.
  void quantize();
  // After inference in bf16 on the CPU has been allocated and filled: keeps all matrices once more, packed, for
  // decoding (kernels/matmul/packed.h). Elsewhere, or where reading them is slow, it does nothing.
  void pack();

  DType dtype() const { return dtype_; }  // of activations, and of matrices that are not quantized
  Device& device() const { return *device_; }
  std::int64_t parameter_count() const;  // distinct numbers
  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }

  // A part's name and where it lies in its parameter's master (or gradient).
  struct NamedPart {
    std::string name;
    View view;
  };
  std::vector<NamedPart> named_masters() const;    // in the order of the checkpoint's names
  std::vector<NamedPart> named_gradients() const;  // zeros for parameters without gradient

  // Whole blocks, one-dimensional; padding between parameters is zero everywhere.
  View master() const { return master_.view(); }
  View gradient() const { return gradient_.view(); }
  View copy() const { return copy_.view(); }                 // absent unless training in bf16
  std::int64_t offset_of(const Parameter& parameter) const;  // of its first number in master()
  // Zeroes what no op wrote, so that gradient() is valid as a whole.
  void complete_gradients() const;
  void forget_gradients();  // the next backward pass overwrites

  // Bytes that training or inference with this store needs, before allocate().
  std::int64_t bytes_needed(DType dtype, Purpose purpose) const;

 private:
  std::deque<Parameter> parameters_;
  std::vector<Initializer> initializers_;
  std::vector<std::int64_t> offsets_;
  std::int64_t block_count_ = 0;  // numbers in a block, padding included
  DType dtype_ = DType::f32;
  Device* device_ = nullptr;
  OwnedTensor master_, copy_, gradient_;
  OwnedTensor scales_;  // of quantized matrices, whose numbers are in copy_
  std::vector<PackedWeights> packed_;
};

// A place in the tree of names: Scope(store) / "model" / "layers" / 3.
class Scope {
 public:
  explicit Scope(ParameterStore& store, std::string prefix = {}) : store_(store), prefix_(std::move(prefix)) {}

  Scope operator/(std::string_view name) const { return Scope(store_, joined(name)); }
  Scope operator/(std::int64_t index) const { return *this / std::to_string(index); }

  Parameter& scalar(std::string_view name, const Initializer& initializer) const {
    return store_.declare({{joined(name), 0, 1, Shape{}}}, initializer);
  }
  Parameter& vector(std::string_view name, std::int64_t size, const Initializer& initializer) const {
    return store_.declare({{joined(name), 0, size, Shape{size}}}, initializer);
  }
  Parameter& matrix(std::string_view name, std::int64_t rows, std::int64_t width,
                    const Initializer& initializer) const {
    return store_.declare({{joined(name), 0, rows, Shape{rows, width}}}, initializer);
  }
  // Several matrices of one width, joined row by row into one parameter.
  Parameter& joined_matrices(const std::vector<std::pair<std::string, std::int64_t>>& names_and_rows,
                             std::int64_t width, const Initializer& initializer) const;

 private:
  std::string joined(std::string_view name) const {
    return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
  }
  ParameterStore& store_;
  std::string prefix_;
};

}  // namespace omni
