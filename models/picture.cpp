#include "models/picture.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/weights.h"

namespace omni {
namespace {

// How many leading dimensions are rows.
int row_dimensions(const Shape& shape, std::int64_t positions) {
  std::int64_t product = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    product *= shape[i];
    if (product == positions && positions > 1) return i + 1;
  }
  return std::max(shape.rank() - 1, 0);
}

template <class T>
double to_double(T value) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<double>(value);
  else
    return static_cast<double>(to_float(value));
}

// The sum over cells and the statistics of all values.
class Reduction {
 public:
  explicit Reduction(Picture& picture)
      : picture_(picture), sums_(static_cast<std::size_t>(picture.height) * static_cast<std::size_t>(picture.width)) {
    picture_.smallest = std::numeric_limits<double>::infinity();
    picture_.largest = -picture_.smallest;
  }

  template <class T>
  void add(const T* values) {  // [rows, columns]
    for (std::int64_t r = 0; r < picture_.rows; ++r) {
      Cell* const row = sums_.data() + r * picture_.height / picture_.rows * picture_.width;
      for (std::int64_t cell = 0, c = 0; cell < picture_.width; ++cell) {
        const std::int64_t end = ((cell + 1) * picture_.columns + picture_.width - 1) / picture_.width;
        for (; c < end; ++c) add(row[cell], to_double(values[r * picture_.columns + c]));
      }
    }
  }

  void finish() {
    const std::int64_t count = picture_.rows * picture_.columns - picture_.not_finite;
    if (count == 0) picture_.smallest = picture_.largest = 0;
    const double divisor = std::max<double>(static_cast<double>(count), 1);
    picture_.mean = sum_ / divisor;
    picture_.root_mean_square = std::sqrt(squares_ / divisor);
    for (Cell& cell : sums_) cell.broken = cell.broken || (cell.count > 0 && !std::isfinite(cell.mean()));
    for (const Cell& cell : sums_)
      if (cell.count > 0 && !cell.broken) picture_.scale = std::max(picture_.scale, std::abs(cell.mean()));
    picture_.cells.reserve(sums_.size());
    for (const Cell& cell : sums_) {
      const double part = picture_.scale > 0 && cell.count > 0 && !cell.broken ? cell.mean() / picture_.scale : 0;
      picture_.cells.push_back(cell.broken ? 0 : static_cast<std::uint8_t>(std::lround(128 + 127 * part)));
    }
  }

 private:
  struct Cell {
    double sum = 0;
    std::int64_t count = 0;
    bool broken = false;
    double mean() const { return sum / static_cast<double>(count); }
  };

  void add(Cell& cell, double value) {
    if (!std::isfinite(value)) {
      cell.broken = true;
      ++picture_.not_finite;
      return;
    }
    cell.sum += value;
    ++cell.count;
    sum_ += value;
    squares_ += value * value;
    picture_.smallest = std::min(picture_.smallest, value);
    picture_.largest = std::max(picture_.largest, value);
  }

  Picture& picture_;
  std::vector<Cell> sums_;
  double sum_ = 0, squares_ = 0;
};

template <class T>
void fill(Picture& picture, const T* values) {
  Reduction reduction(picture);
  reduction.add(values);
  reduction.finish();
  const std::int64_t count = picture.rows * picture.columns;
  if (count <= Picture::kListed)
    for (std::int64_t i = 0; i < count; ++i) picture.values.push_back(to_double(values[i]));
}

}  // namespace

Picture picture_of(Device& device, const ConstView& tensor, const PictureSize& size) {
  std::vector<OwnedTensor> memory;
  const ConstView host = device.on_host(tensor, memory);
  Picture picture;
  const int split = row_dimensions(host.shape, size.positions);
  picture.rows = picture.columns = 1;
  for (int i = 0; i < host.shape.rank(); ++i) (i < split ? picture.rows : picture.columns) *= host.shape[i];
  const int limit = picture.rows == size.positions ? size.position_height : size.height;
  picture.height = static_cast<int>(std::min<std::int64_t>(picture.rows, limit));
  picture.width = static_cast<int>(std::min<std::int64_t>(picture.columns, size.width));
  switch (host.dtype) {
    case DType::i64:
      fill(picture, host.as<std::int64_t>());
      break;
    case DType::i32:
      fill(picture, host.as<std::int32_t>());
      break;
    case DType::u8:
      fill(picture, host.as<std::uint8_t>());
      break;
    case DType::f16:
      fill(picture, host.as<f16>());
      break;
    default:
      dispatch(host.dtype, [&]<class T>() { fill(picture, host.as<T>()); });
  }
  return picture;
}

}  // namespace omni
