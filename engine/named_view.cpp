#include "engine/named_view.h"

#include <stdexcept>
#include <string_view>
#include <unordered_set>

namespace omni {

void check_writable(const std::string& file, std::span<const NamedView> tensors) {
  std::unordered_set<std::string_view> seen;
  for (const NamedView& tensor : tensors) {
    if (!seen.insert(tensor.name).second)
      throw std::runtime_error("cannot write " + file + ": two tensors are named '" + tensor.name + "'");
    if (!tensor.view && tensor.view.count() != 0)
      throw std::runtime_error("cannot write " + file + ": tensor '" + tensor.name + "' has no data");
  }
}

}  // namespace omni
