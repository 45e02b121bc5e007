#pragma once
// Views: a pointer, a dtype, a shape, and whose memory it is. Contiguous, row-major, at most four dimensions, no
// ownership.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/dtype.h"

namespace omni {

// Whose memory a pointer points to.
enum class Place : std::uint8_t {
  host,
  cuda,     // of a GPU: the host must not touch it
  managed,  // CUDA's unified memory, for both
};

constexpr const char* name_of(Place place) {
  return place == Place::host ? "host" : place == Place::cuda ? "cuda" : "managed";
}

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;  // a scalar: rank 0, one element
  Shape(std::initializer_list<std::int64_t> sizes)
      : Shape(std::span<const std::int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
    if (sizes.size() > kMaxRank) throw std::invalid_argument("a shape has at most 4 dimensions");
    for (int i = 0; i < rank_; ++i) sizes_[static_cast<std::size_t>(i)] = sizes[static_cast<std::size_t>(i)];
  }

  int rank() const { return rank_; }
  // Size of a dimension; negative numbers count from the last one.
  std::int64_t operator[](int dim) const { return sizes_[static_cast<std::size_t>(dim < 0 ? dim + rank_ : dim)]; }

  std::int64_t count() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= (*this)[i];
    return product;
  }
  // The last dimension, and the product of all before it: a tensor seen as a matrix.
  std::int64_t width() const { return rank_ == 0 ? 1 : (*this)[rank_ - 1]; }
  std::int64_t rows() const {
    std::int64_t product = 1;
    for (int i = 0; i + 1 < rank_; ++i) product *= (*this)[i];
    return product;
  }

  // The same shape with another last dimension.
  Shape with_width(std::int64_t width) const {
    Shape out = *this;
    out.sizes_[static_cast<std::size_t>(rank_ - 1)] = width;
    return out;
  }

  bool operator==(const Shape&) const = default;

  std::string text() const {  // "[2, 3]"
    std::string out = "[";
    for (int i = 0; i < rank_; ++i) out += (i ? ", " : "") + std::to_string((*this)[i]);
    return out + "]";
  }

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

// What a view of mutable and one of constant data have in common. Pointer is void* or const void*.
template <class Pointer>
struct BasicView {
  Pointer data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  Place place = Place::host;

  explicit operator bool() const { return data != nullptr; }  // an optional operand that is absent has no data
  std::int64_t count() const { return shape.count(); }
  std::int64_t rows() const { return shape.rows(); }
  std::int64_t width() const { return shape.width(); }
  std::int64_t bytes() const { return data == nullptr ? 0 : shape.count() * static_cast<std::int64_t>(size_of(dtype)); }

  // The typed pointer. Null for an absent operand; throws if the view holds another type.
  template <class T>
  auto as() const {
    using Typed = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const T*, T*>;
    if (data != nullptr && dtype != dtype_of<T>())
      throw std::logic_error(std::string("view of ") + name_of(dtype) + " read as " + name_of(dtype_of<T>()));
    return static_cast<Typed>(data);
  }
};

struct View : BasicView<void*> {};

struct ConstView : BasicView<const void*> {
  ConstView() = default;
  ConstView(const void* pointer, DType type, const Shape& sizes, Place place = Place::host)
      : BasicView{pointer, type, sizes, place} {}
  ConstView(const View& view)
      : BasicView{view.data, view.dtype, view.shape, view.place} {}  // NOLINT: a view decays to a const one
};

// The part of a view that begins after `offset` elements.
inline View slice(const View& whole, std::int64_t offset, const Shape& shape) {
  if (!whole) return {};
  return {{static_cast<std::byte*>(whole.data) + offset * static_cast<std::int64_t>(size_of(whole.dtype)), whole.dtype,
           shape, whole.place}};
}
inline ConstView slice(const ConstView& whole, std::int64_t offset, const Shape& shape) {
  if (!whole) return {};
  return {static_cast<const std::byte*>(whole.data) + offset * static_cast<std::int64_t>(size_of(whole.dtype)),
          whole.dtype, shape, whole.place};
}

// Views of plain C++ arrays.
template <class T>
View view_of(T* data, const Shape& shape) {
  return {{data, dtype_of<T>(), shape}};
}
template <class T>
ConstView view_of(const T* data, const Shape& shape) {
  return {data, dtype_of<T>(), shape};
}

}  // namespace omni
