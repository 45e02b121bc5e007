#pragma once
// The JSON header of a safetensors file, parsed and checked as far as is possible without knowing the tensors' bytes.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

struct SafetensorsHeader {
  struct Tensor {
    std::string name, dtype;
    std::vector<std::int64_t> shape;   // all >= 0
    std::uint64_t begin = 0, end = 0;  // byte range, counted from the first byte after the header
  };
  std::vector<Tensor> tensors;  // in the header's order, names are unique
  std::map<std::string, std::string> metadata;
};

// Throws std::runtime_error naming `file`, the tensor and the field. Memory and time are linear in the text.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file);

}  // namespace omni
