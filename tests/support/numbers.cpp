#include "tests/support/numbers.h"

#include <cmath>
#include <cstring>
#include <sstream>

#include "engine/philox.h"

namespace omni {
namespace {

// One GPU for the whole test program: setting it up takes longer than most tests.
std::shared_ptr<Device> gpu() {
  static const std::shared_ptr<Device> device =
      cuda_device_count() > 0 ? std::shared_ptr<Device>(new Device(Device::named("cuda", 2))) : nullptr;
  return device;
}

}  // namespace

TestContext::TestContext(int threads) : device_(new Device(Device::cpu(threads))) {}

std::vector<TestContext> TestContext::all() {
  std::vector<TestContext> out{TestContext()};
  if (gpu()) out.push_back(TestContext(gpu()));
  return out;
}

std::vector<DType> TestContext::dtypes() const {
  return is_cpu() ? std::vector{DType::f32, DType::bf16, DType::f64} : std::vector{DType::f32, DType::bf16};
}

OwnedTensor zeros(DType dtype, const Shape& shape) { return {dtype, shape, gpu() ? Place::managed : Place::host}; }

OwnedTensor randn(const Shape& shape, std::uint64_t seed, DType dtype, double deviation) {
  OwnedTensor out = zeros(dtype, shape);
  Philox random(seed, RandomStream::test);
  dispatch(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < shape.count(); ++i) out.as<T>()[i] = round_to<T>(deviation * random.normal());
  });
  return out;
}

OwnedTensor random_ids(const Shape& shape, std::uint64_t seed, std::int64_t limit) {
  OwnedTensor out = zeros(DType::i64, shape);
  Philox random(seed, RandomStream::test);
  for (std::int64_t i = 0; i < shape.count(); ++i)
    out.as<std::int64_t>()[i] = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(limit)));
  return out;
}

OwnedTensor unwritten(DType dtype, const Shape& shape) {
  OwnedTensor out = zeros(dtype, shape);
  std::memset(out.view().data, 0xff, static_cast<std::size_t>(out.view().bytes()));
  return out;
}

std::vector<double> values_of(const ConstView& view) {
  std::vector<double> out;
  dispatch(view.dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < view.count(); ++i) out.push_back(to_float(view.as<T>()[i]));
  });
  return out;
}

bool same_bits(const ConstView& a, const ConstView& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0;
}

OwnedParameter make_parameter(const Shape& shape, std::uint64_t seed, DType dtype) {
  OwnedParameter out{randn(shape, seed, dtype), unwritten(dtype == DType::f64 ? DType::f64 : DType::f32, shape), {}};
  out.parameter.parts = {{"weight", 0, shape[0], shape}};
  out.parameter.master = out.parameter.value = out.value;
  out.parameter.gradient = out.gradient;
  return out;
}

double tolerance(DType dtype, std::int64_t length) {
  const double unit = dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  const double wide = dtype == DType::f64 ? 0x1p-53 : 0x1p-24;
  return unit + 16 * wide * std::sqrt(static_cast<double>(length));
}

std::string difference(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance) {
  std::ostringstream out;
  out.precision(17);
  if (actual.size() != expected.size()) {
    out << actual.size() << " values where " << expected.size() << " are expected";
    return out.str();
  }
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // equal infinities, too
    const double error = std::fabs(actual[i] - expected[i]) / std::fmax(1, std::fabs(expected[i]));
    const bool comparable = std::isfinite(error);
    if (comparable && (error <= tolerance || error <= worst)) continue;
    worst = error;
    out.str("");
    out << "value " << i << " is " << actual[i] << ", expected " << expected[i] << " within " << tolerance;
    if (!comparable) break;
  }
  return out.str();
}

}  // namespace omni
