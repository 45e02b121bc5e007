// Fuzz target: a .npy file from hostile bytes.

#include "engine/npy.h"

#include <stdexcept>

namespace {

using namespace omni;

// Reads all values, so that one outside of the input is noticed.
double sum_of(const Npy& array) {
  double sum = 0;
  if (array.is_float())
    for (const float value : array.floats()) sum += value;
  else
    for (const std::int64_t value : array.integers()) sum += static_cast<double>(value);
  return sum;
}

std::string version_2(const std::string& header, const std::string& data) {
  return std::string("\x93NUMPY\2\0", 8) + static_cast<char>(header.size()) + std::string(3, '\0') + header + data;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {npy_file(std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}, {2, 3}), npy_file(std::vector<float>{1, -2}, {2}),
          version_2("{\"descr\":\"<f8\",'shape':(1,1,2,),'fortran_order':False}", std::string(16, '\1')),
          version_2("{'descr': '|i1', 'fortran_order': False, 'shape': (), }", "\x7f"),
          version_2("{'descr': '<f2', 'fortran_order': True, 'shape': (0, 3), }\n", "")};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    volatile double sum = sum_of(parse_npy(std::as_bytes(std::span(data, size)), "input"));
    static_cast<void>(sum);
  } catch (const std::runtime_error&) {
  }
  return 0;
}
