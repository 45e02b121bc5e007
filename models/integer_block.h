#pragma once
// Integers that a pass reads, written side by side on the host, so that one copy takes them to the device.

#include <cstdint>
#include <vector>

#include "autograd/tape.h"

namespace omni {

class IntegerBlock {
 public:
  // `count`: what all calls of take() together ask for.
  explicit IntegerBlock(std::int64_t count) : values_(static_cast<std::size_t>(count)) {}

  // Room for `count` more values.
  std::int64_t* take(std::int64_t count) {
    std::int64_t* out = values_.data() + used_;
    used_ += count;
    return out;
  }
  // Where the values that take() returned lie on the device. After upload().
  Tensor on_device(const std::int64_t* taken, const Shape& shape) const {
    return Tensor(slice(static_cast<const View&>(block_), taken - values_.data(), shape));
  }
  void upload(Tape& tape) { block_ = tape.upload(view_of(values_.data(), {used_})); }

 private:
  std::vector<std::int64_t> values_;
  std::int64_t used_ = 0;
  Tensor block_;
};

}  // namespace omni
