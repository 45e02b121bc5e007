// Fuzz target: a safetensors file from hostile bytes. A file that opens lets every tensor be read from end to end.

#include "engine/safetensors.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      file_of("{}", ""),
      file_of(R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}     )", std::string(8, 'x')),
      file_of(
          R"({"__metadata__":{"format":"pt"},"x":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},)"
          R"("y":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"z":{"dtype":"F4","shape":[2,5,0],"data_offsets":[8,8]}})",
          std::string(11, 'y')),
  };
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const omni::SafetensorsFile file(std::as_bytes(std::span(data, size)), "input");
    volatile unsigned sum = 0;
    for (const std::string& name : file.names()) try {
        const omni::ConstView view = file.at(name);
        for (std::int64_t i = 0; i < view.bytes(); ++i) sum = sum + static_cast<const std::uint8_t*>(view.data)[i];
      } catch (const std::runtime_error&) {  // a dtype or a rank that is not supported
      }
  } catch (const std::runtime_error&) {
  }
  return 0;
}
