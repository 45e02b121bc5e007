#include "kernels/instruction.h"

namespace omni {
namespace {

// "y, gate, up" -> {"y", "gate", "up"}
std::vector<std::string> split_names(std::string_view names) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(", ", begin), names.size());
    out.emplace_back(names.substr(begin, end - begin));
    begin = end + 2;
  }
  return out;
}

}  // namespace

void Check::fail(const std::string& message) const {
  throw std::invalid_argument(std::string(instruction_) + ": " + message);
}

void Check::collect(const char* name, const Operand& view) {
  for (const NamedOperand& operand : operands_)
    if (operand.name == name) return;
  operands_.push_back({name, view});
}

std::string Check::operands_text() const {
  std::string out;
  for (const NamedOperand& operand : operands_)
    out += (out.empty() ? "" : ", ") + operand.name + " " + text(operand.view);
  return out;
}

void Check::same_list(const char* names, std::span<const Operand> views) {
  bool equal = true;
  for (const Operand& view : views)
    equal = equal && view && view.dtype == views[0].dtype && view.shape == views[0].shape;
  bool reachable = true;
  for (const Operand& view : views) reachable = reachable && is_reachable(view);
  if (equal && reachable && !collect_) return;
  const std::vector<std::string> each = split_names(names);
  std::string found;
  for (std::size_t i = 0; i < views.size(); ++i) {
    list(each.at(i).c_str(), views[i]);
    found += (i ? ", " : "") + each.at(i) + " " + text(views[i]);
  }
  if (!equal) fail(std::string(names) + " must have one shape and dtype, found " + found);
}

}  // namespace omni
