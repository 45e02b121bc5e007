#pragma once
// Random tensors, parameters, and comparisons that fail on NaN.

#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "engine/device.h"
#include "engine/memory.h"

namespace omni {

// Zeros, in memory that every device of TestContext::all() can use. So are the tensors below.
OwnedTensor zeros(DType dtype, const Shape& shape);
// Standard normal numbers times `deviation`, rounded to the dtype (f32, bf16, f64). Equal arguments give equal numbers.
OwnedTensor randn(const Shape& shape, std::uint64_t seed, DType dtype = DType::f64, double deviation = 1);
// Uniform integers 0 .. limit - 1, as i64.
OwnedTensor random_ids(const Shape& shape, std::uint64_t seed, std::int64_t limit);
// Every byte 0xff: NaN in each floating-point dtype, so that a value which a kernel forgets to write is seen.
OwnedTensor unwritten(DType dtype, const Shape& shape);

// All values widened to double.
std::vector<double> values_of(const ConstView& view);
// Whether two views hold the same bytes.
bool same_bits(const ConstView& a, const ConstView& b);

// A trainable parameter with memory of its own, normal values of deviation 1 and an undefined gradient.
struct OwnedParameter {
  OwnedTensor value, gradient;
  Parameter parameter;
  operator Parameter&() { return parameter; }   // NOLINT: an operand of ops
  operator Parameter*() { return &parameter; }  // NOLINT: an operand of gradcheck
};
OwnedParameter make_parameter(const Shape& shape, std::uint64_t seed, DType dtype = DType::f64);

// What a value of this dtype may be off after a reduction over `length` terms of size 1: one rounding to the dtype, and
// the rounding errors of the additions in the wider type, which grow like the square root of their number.
double tolerance(DType dtype, std::int64_t length = 1);

// Empty if |a - b| <= tolerance * max(1, |b|) for all elements; else names the worst one. NaN is never close.
std::string difference(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance);

// Awkward shapes for row-wise kernels: vector tails, single elements, no rows, and one that is split among threads.
inline std::vector<Shape> awkward_shapes() {
  std::vector<Shape> shapes{{0, 7}, {300, 257}};
  for (const std::int64_t width : {1, 7, 31, 33, 96, 768, 1023})
    for (const std::int64_t rows : {1, 3, 17}) shapes.push_back({rows, width});
  return shapes;
}

// One device, to run instructions on. Tensors of the functions above can be operands on all of them.
class TestContext {
 public:
  // The CPU.
  explicit TestContext(int threads = 2);
  // Every device that is there: the CPU, and a GPU if this build has kernels for it and the machine has one.
  static std::vector<TestContext> all();

  bool is_cpu() const { return device_->is_cpu(); }
  // What its kernels compute on: f32, bf16, and on the CPU f64.
  std::vector<DType> dtypes() const;
  Device& device() const { return *device_; }
  operator const CpuContext&() const { return device_->cpu_context(); }  // NOLINT: used as one
  // Checks the instruction, runs it and waits for its end.
  template <class Op>
  void operator()(const Op& op) const {
    device_->run(op);
    device_->synchronize();
  }

 private:
  explicit TestContext(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  std::shared_ptr<Device> device_;
};

// All dtypes of a device with all awkward shapes.
inline std::vector<std::pair<DType, Shape>> awkward_operands(const TestContext& context) {
  std::vector<std::pair<DType, Shape>> out;
  for (const DType dtype : context.dtypes())
    for (const Shape& shape : awkward_shapes()) out.emplace_back(dtype, shape);
  return out;
}

}  // namespace omni

// Each value of a view is within `bound` of the expected one, relative where that is larger than 1.
#define REQUIRE_CLOSE(actual, expected, bound) \
  REQUIRE(::omni::difference(::omni::values_of(actual), (expected), (bound)) == "")
