#pragma once
// Functions of one number that several kernels need.

namespace omni {

__device__ inline float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

}  // namespace omni
