#pragma once
// What this machine can do, measured: the yardstick of progress lines, profiles and benches.

#include "engine/device.h"

namespace omni {

// Rates of the device's matrix products in f32 and bf16 on a model-sized shape, and of memory traffic on buffers that
// no cache holds (reads and writes counted). Takes about half a second.
MachineLimits measure_machine(Device& device);

}  // namespace omni
