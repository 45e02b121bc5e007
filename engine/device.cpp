#include "engine/device.h"

#include <omp.h>

#include <stdexcept>

namespace omni {

Device::Device(int threads) : cpu_{threads > 0 ? threads : omp_get_max_threads(), &workspace_} {
  omp_set_num_threads(cpu_.threads);
}

Device Device::named(const std::string& name, int threads) {
  if (name == "cpu") return Device(threads);
  if (name.starts_with("cuda"))
    throw std::runtime_error("device: this build has no CUDA kernels (it was made without nvcc), use device=cpu");
  throw std::runtime_error("device: expected cpu or cuda, found \"" + name + "\"");
}

}  // namespace omni
