#include "autograd/module.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/philox.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/rounding.h"

namespace omni {
namespace {

std::int64_t rows_of(const Parameter& parameter) {
  return parameter.parts.back().first_row + parameter.parts.back().rows;
}
bool is_vector(const Parameter& parameter) { return parameter.parts.front().shape.rank() < 2; }
std::int64_t width_of(const Parameter& parameter) {
  return is_vector(parameter) ? 1 : parameter.parts.front().shape.width();
}
Shape shape_of(const Parameter& parameter) {
  return is_vector(parameter) ? parameter.parts.front().shape : Shape{rows_of(parameter), width_of(parameter)};
}
std::int64_t padded_count(const Parameter& parameter) {
  return round_up(shape_of(parameter).count(), kParameterAlignment);
}

template <class T>
void draw(T* values, std::int64_t count, const Initializer& initializer, Philox& random) {
  for (std::int64_t i = 0; i < count; ++i) switch (initializer.kind) {
      case Initializer::Kind::constant:
        values[i] = round_to<T>(static_cast<float>(initializer.value));
        break;
      case Initializer::Kind::normal:
        values[i] = round_to<T>(static_cast<float>(initializer.value * random.normal()));
        break;
      case Initializer::Kind::uniform:
        values[i] = round_to<T>(static_cast<float>(initializer.value * (2 * random.uniform() - 1)));
        break;
    }
}

// values [width] = row / scale, rounded, where the largest becomes 127. Returns the scale.
float quantize_row(std::int8_t* values, const float* row, std::int64_t width) {
  float largest = 0;
  for (std::int64_t i = 0; i < width; ++i) largest = std::max(largest, std::abs(row[i]));
  const float factor = largest > 0 ? 127 / largest : 0;
  for (std::int64_t i = 0; i < width; ++i)
    values[i] = static_cast<std::int8_t>(std::clamp(std::nearbyint(row[i] * factor), -127.f, 127.f));
  return largest / 127;
}

}  // namespace

Parameter& ParameterStore::declare(std::vector<ParameterPart> parts, const Initializer& initializer) {
  parameters_.push_back({});
  Parameter& parameter = parameters_.back();
  parameter.parts = std::move(parts);
  initializers_.push_back(initializer);
  offsets_.push_back(block_count_);
  block_count_ += padded_count(parameter);
  return parameter;
}

std::int64_t ParameterStore::bytes_needed(DType dtype, Purpose purpose) const {
  const std::int64_t width = static_cast<std::int64_t>(size_of(dtype));
  if (purpose == Purpose::inference) return block_count_ * width;
  return dtype == DType::bf16 ? block_count_ * 10 : 2 * block_count_ * width;
}

void ParameterStore::allocate(DType dtype, Purpose purpose, Device& device) {
  dtype_ = dtype;
  device_ = &device;
  const Place place = device.place();
  const bool training = purpose == Purpose::training;
  // A block of bf16 numbers leaves no room for f32 vectors; inference keeps those in a small block of their own.
  if (dtype == DType::bf16 && !training) {
    std::int64_t vectors = 0;
    for (const Parameter& parameter : parameters_) vectors += is_vector(parameter) ? padded_count(parameter) : 0;
    copy_ = OwnedTensor(DType::bf16, {block_count_}, place);
    master_ = OwnedTensor(DType::f32, {vectors}, place);
    std::int64_t next_vector = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      Parameter& parameter = parameters_[i];
      parameter.trainable = false;
      parameter.value = is_vector(parameter) ? slice(master_.view(), next_vector, shape_of(parameter))
                                             : slice(copy_.view(), offsets_[i], shape_of(parameter));
      parameter.master = parameter.value;
      next_vector += is_vector(parameter) ? padded_count(parameter) : 0;
    }
    return;
  }
  master_ = OwnedTensor(dtype == DType::f64 ? DType::f64 : DType::f32, {block_count_}, place);
  if (dtype == DType::bf16) copy_ = OwnedTensor(DType::bf16, {block_count_}, place);
  if (training) gradient_ = OwnedTensor(master_.view().dtype, {block_count_}, place);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    const Shape shape = shape_of(parameter);
    parameter.master = slice(master_.view(), offsets_[i], shape);
    parameter.value =
        dtype == DType::bf16 && !is_vector(parameter) ? slice(copy_.view(), offsets_[i], shape) : parameter.master;
    parameter.trainable = training;
    if (training) parameter.gradient = slice(gradient_.view(), offsets_[i], shape);
  }
}

void ParameterStore::quantize() {
  if (!device_ || !device_->is_cpu() || dtype_ != DType::f32 || gradient_.view())
    throw std::invalid_argument("int8 weights are for inference on the CPU, from weights in f32");
  std::int64_t rows = 0, vectors = 0;
  for (const Parameter& parameter : parameters_)
    is_vector(parameter) ? vectors += padded_count(parameter) : rows += rows_of(parameter);
  OwnedTensor vector_block(DType::f32, {vectors});
  copy_ = OwnedTensor(DType::i8, {block_count_});
  scales_ = OwnedTensor(DType::f32, {rows});
  std::int64_t next_vector = 0, next_scale = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    const View from = parameter.master;
    if (is_vector(parameter)) {
      parameter.value = slice(vector_block.view(), next_vector, from.shape);
      device_->copy(parameter.value, from);
      next_vector += padded_count(parameter);
    } else {
      parameter.value = slice(copy_.view(), offsets_[i], from.shape);
      parameter.scale = slice(scales_.view(), next_scale, {from.rows()});
      const std::int64_t width = from.width();
#pragma omp parallel for schedule(static)
      for (std::int64_t row = 0; row < from.rows(); ++row)
        parameter.scale.as<float>()[row] =
            quantize_row(parameter.value.as<std::int8_t>() + row * width, from.as<float>() + row * width, width);
      next_scale += from.rows();
    }
    parameter.master = parameter.value;
  }
  master_ = std::move(vector_block);
}

void ParameterStore::pack() {
  if (!kPackedIsFast || !device_->is_cpu() || dtype_ != DType::bf16 || gradient_.view()) return;
  std::vector<Parameter*> matrices;
  for (Parameter& parameter : parameters_)
    if (!is_vector(parameter)) matrices.push_back(&parameter);
  packed_.resize(matrices.size());
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    packed_[i] = PackedWeights(matrices[i]->value);
    matrices[i]->packed = packed_[i].view();
  }
}

void ParameterStore::initialize(std::uint64_t seed) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Philox random(seed, RandomStream::initialization, i);
    const View& master = parameters_[i].master;
    const OwnedTensor values(master.dtype, master.shape);
    dispatch(master.dtype, [&]<class T>() { draw(values.as<T>(), master.count(), initializers_[i], random); });
    device_->copy(master, values);
  }
}

void ParameterStore::refresh_copy() {
  if (master_.view().count() == copy_.view().count() && copy_.view()) device_->run(Copy{.y = copy_, .x = master_});
}

std::int64_t ParameterStore::parameter_count() const {
  std::int64_t sum = 0;
  for (const Parameter& parameter : parameters_) sum += shape_of(parameter).count();
  return sum;
}

std::int64_t ParameterStore::offset_of(const Parameter& parameter) const {
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (&parameters_[i] == &parameter) return offsets_[i];
  throw std::logic_error("a parameter of another store");
}

std::vector<ParameterStore::NamedPart> ParameterStore::named_masters() const {
  std::vector<NamedPart> out;
  for (const Parameter& parameter : parameters_)
    for (const ParameterPart& part : parameter.parts)
      out.push_back({part.name, slice(parameter.master, part.first_row * width_of(parameter), part.shape)});
  return out;
}

std::vector<ParameterStore::NamedPart> ParameterStore::named_gradients() const {
  std::vector<NamedPart> out;
  for (const Parameter& parameter : parameters_)
    for (const ParameterPart& part : parameter.parts)
      out.push_back({part.name, slice(parameter.gradient, part.first_row * width_of(parameter), part.shape)});
  return out;
}

void ParameterStore::complete_gradients() const {
  for (const Parameter& parameter : parameters_)
    if (!parameter.has_gradient && parameter.gradient) device_->run(Fill{.y = parameter.gradient, .value = 0});
}

void ParameterStore::forget_gradients() {
  for (Parameter& parameter : parameters_) parameter.has_gradient = false;
}

Parameter& Scope::joined_matrices(const std::vector<std::pair<std::string, std::int64_t>>& names_and_rows,
                                  std::int64_t width, const Initializer& initializer) const {
  std::vector<ParameterPart> parts;
  std::int64_t row = 0;
  for (const auto& [name, rows] : names_and_rows) {
    parts.push_back({joined(name), row, rows, Shape{rows, width}});
    row += rows;
  }
  return store_.declare(std::move(parts), initializer);
}

}  // namespace omni
