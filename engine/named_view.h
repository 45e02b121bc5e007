#pragma once
// Tensors with names, as weight files hold them.

#include <span>
#include <string>

#include "kernels/view.h"

namespace omni {

struct NamedView {
  std::string name;
  ConstView view;
};

// What every writer of weight files demands: names are unique and every tensor that has elements has data.
// Throws std::runtime_error naming `file` and the tensor.
void check_writable(const std::string& file, std::span<const NamedView> tensors);

}  // namespace omni
