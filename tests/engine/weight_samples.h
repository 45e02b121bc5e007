#pragma once
// Tensors of every dtype and of awkward shapes, for the tests of weight files.

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "engine/memory.h"
#include "engine/named_view.h"
#include "engine/philox.h"

namespace omni {

struct WeightSamples {
  std::deque<OwnedTensor> memory;
  std::vector<NamedView> tensors;

  WeightSamples() {
    const Shape shapes[] = {Shape{}, Shape{1}, Shape{0}, Shape{3, 0, 2}, Shape{5, 7}, Shape{2, 3, 5, 11}, Shape{1013}};
    Philox random(7, RandomStream::test);
    for (const DType dtype : {DType::u8, DType::f32, DType::bf16, DType::f16, DType::f64, DType::i64, DType::i32})
      for (const Shape& shape : shapes) {
        const View view = memory.emplace_back(dtype, shape).view();
        for (std::int64_t i = 0; i < view.bytes(); ++i)  // any bits: files carry NaN and denormals unchanged
          static_cast<unsigned char*>(view.data)[i] = static_cast<unsigned char>(random.next());
        tensors.push_back({std::string(name_of(dtype)) + "." + shape.text(), view});
      }
  }
};

inline bool same(const ConstView& a, const ConstView& b) {
  return a && b && a.dtype == b.dtype && a.shape == b.shape &&
         std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0;
}

inline std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace omni
