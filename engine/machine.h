#pragma once
// What a device can do: the yardstick of progress lines, profiles and benches.

#include <optional>
#include <string_view>

#include "engine/device.h"

namespace omni {

// The data sheet of a GPU whose name contains one of "RTX 3090", "RTX 4090", "A100", "H100", "H200".
std::optional<MachineLimits> gpu_limits(std::string_view name);

// For such a GPU, its data sheet; else measured: rates of the device's matrix products in f32 and bf16 on a
// model-sized shape, and of memory traffic on buffers that no cache holds (reads and writes counted), in about half a
// second.
MachineLimits measure_machine(Device& device);

}  // namespace omni
